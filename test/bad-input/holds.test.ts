import type { DescMethod, JsonObject } from "@bufbuild/protobuf";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { checkBooks } from "../../src/check/check.js";
import { HoldService } from "../../src/gen/keytoll/v1/hold_pb.js";
import { inRpc, overConnect, overGrpc, overStream, type Wire } from "./wires.js";
import { buildWorld, type Credential, digestOf, type World } from "./world.js";

let world: World;
beforeAll(async () => {
  world = await buildWorld();
});
afterAll(() => world?.close());

type Row = [
  what: string,
  method: DescMethod,
  as: Credential,
  message: (w: World) => JsonObject,
  reason: string,
  param?: string,
];

const { authorize, capture, extend, getHold, void: voidHold } = HoldService.method;
const INVALID = "invalid_request_error";
const HOUR = 3_600_000;
const MAX = "9223372036854775807";
const INT32_MAX = 2_147_483_647;

/** A UUIDv7 of a time so far from now. */
function idAt(ms: number): string {
  const time = (Date.now() + ms).toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}${newId().slice(13)}`;
}

/** What would be accepted, with some fields changed; undefined takes one out. */
function asking(
  w: World,
  changes: Record<string, JsonObject[string] | undefined> = {},
): JsonObject {
  const asked = {
    holdId: newId(),
    childKeyId: w.children.active.id,
    amountNgonka: "1000",
    ...changes,
  };
  return JSON.parse(JSON.stringify(asked)) as JsonObject;
}

const ids: [string, string][] = [
  ["no id", ""],
  ["an id that is none", "hold-1"],
  ["an id of version 1", "c232ab00-9414-11ec-b3c8-9f6bdeced846"],
  ["an id of version 4", "919108f7-52d1-4320-9bac-f847db4148a8"],
  ["an id of version 6", "1ec9414c-232a-6b00-b3c8-9f6bdeced846"],
  ["an id of no version", "00000000-0000-0000-0000-000000000000"],
  ["the greatest id", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
  ["an id of another variant", "017f22e2-79b0-7cc3-c8c4-dc0c0c07398f"],
  ["an id in braces", "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}"],
  ["an id without its dashes", "017f22e279b07cc398c4dc0c0c07398f"],
  ["an id with a blank behind it", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f "],
];

const idRows: Row[] = [authorize, capture, voidHold, extend, getHold].flatMap((method) =>
  ids.map(
    ([what, holdId]): Row => [
      what,
      method,
      "gm",
      (w) => (method === authorize ? asking(w, { holdId }) : { holdId }),
      INVALID,
      "hold_id",
    ],
  ),
);

const unknownRows: Row[] = [capture, voidHold, extend, getHold].flatMap((method) => {
  const rest = method === capture ? { costNgonka: "1" } : {};
  const message = (holdId: string): JsonObject =>
    method === extend ? { holdId, deadlineSeconds: 60 } : { holdId, ...rest };
  return [
    ["an unknown hold", method, "gm", (w) => message(w.holds.unknown), "not_found", "hold_id"],
    [
      "another owner's hold",
      method,
      "owner",
      (w) => message(w.holds.stranger),
      "not_found",
      "hold_id",
    ],
    ["a sibling's hold", method, "gm", (w) => message(w.holds.sibling), "not_found", "hold_id"],
  ] satisfies Row[];
});

const child = (of: (w: World) => string) => (w: World) => asking(w, { childKeyId: of(w) });
const bySecret = (of: (w: World) => string) => (w: World) =>
  asking(w, { childKeyId: undefined, secret: of(w) });

const authorizeRows: Row[] = [
  [
    "an id 25 h old",
    authorize,
    "gm",
    (w) => asking(w, { holdId: idAt(-25 * HOUR) }),
    INVALID,
    "hold_id",
  ],
  [
    "an id 25 h ahead",
    authorize,
    "gm",
    (w) => asking(w, { holdId: idAt(25 * HOUR) }),
    INVALID,
    "hold_id",
  ],
  [
    "no amount",
    authorize,
    "gm",
    (w) => asking(w, { amountNgonka: undefined }),
    INVALID,
    "amount_ngonka",
  ],
  [
    "an amount of zero",
    authorize,
    "gm",
    (w) => asking(w, { amountNgonka: "0" }),
    INVALID,
    "amount_ngonka",
  ],
  [
    "an amount below zero",
    authorize,
    "gm",
    (w) => asking(w, { amountNgonka: "-1" }),
    INVALID,
    "amount_ngonka",
  ],
  [
    "the least int64",
    authorize,
    "gm",
    (w) => asking(w, { amountNgonka: "-9223372036854775808" }),
    INVALID,
    "amount_ngonka",
  ],
  [
    "no child",
    authorize,
    "gm",
    (w) => asking(w, { childKeyId: undefined }),
    INVALID,
    "child_key_id",
  ],
  ["an empty child", authorize, "gm", child(() => ""), INVALID, "child_key_id"],
  ["a child's id that is none", authorize, "gm", child(() => "x"), "not_found", "child_key_id"],
  ["an unknown child", authorize, "gm", child((w) => w.nowhere), "not_found", "child_key_id"],
  [
    "another owner's child",
    authorize,
    "owner",
    child((w) => w.strangerChild.id),
    "not_found",
    "child_key_id",
  ],
  [
    "a sibling's child",
    authorize,
    "gm",
    child((w) => w.siblingChild.id),
    "not_found",
    "child_key_id",
  ],
  ["a disabled child", authorize, "gm", child((w) => w.children.disabled.id), "child_key_inactive"],
  ["an expired child", authorize, "gm", child((w) => w.children.expired.id), "child_key_inactive"],
  ["a deleted child", authorize, "gm", child((w) => w.children.deleted.id), "child_key_inactive"],
  ["a garbled secret", authorize, "gm", bySecret(() => "gc-x"), "invalid_api_key"],
  ["no secret", authorize, "gm", bySecret(() => ""), "invalid_api_key"],
  [
    "a management key's secret",
    authorize,
    "gm",
    bySecret((w) => w.credentials.gm),
    "wrong_key_kind",
    "secret",
  ],
  [
    "a disabled child's secret",
    authorize,
    "gm",
    bySecret((w) => w.children.disabled.secret),
    "invalid_api_key",
  ],
  [
    "an expired child's secret",
    authorize,
    "gm",
    bySecret((w) => w.children.expired.secret),
    "invalid_api_key",
  ],
  [
    "a deleted child's secret",
    authorize,
    "gm",
    bySecret((w) => w.children.deleted.secret),
    "invalid_api_key",
  ],
  [
    "a stranger's secret",
    authorize,
    "gm",
    bySecret((w) => w.strangerChild.secret),
    "invalid_api_key",
    "secret",
  ],
  [
    "a sibling's secret",
    authorize,
    "gm",
    bySecret((w) => w.siblingChild.secret),
    "invalid_api_key",
    "secret",
  ],
  [
    "a deadline of zero",
    authorize,
    "gm",
    (w) => asking(w, { deadlineSeconds: 0 }),
    INVALID,
    "deadline_seconds",
  ],
  [
    "a deadline in the past",
    authorize,
    "gm",
    (w) => asking(w, { deadlineSeconds: -1 }),
    INVALID,
    "deadline_seconds",
  ],
  [
    "a deadline after a day",
    authorize,
    "gm",
    (w) => asking(w, { deadlineSeconds: 86_401 }),
    INVALID,
    "deadline_seconds",
  ],
  [
    "an unknown model",
    authorize,
    "gm",
    (w) => asking(w, { model: "demo/none" }),
    "model_not_found",
    "model",
  ],
  [
    "a model that the child may not use",
    authorize,
    "gm",
    (w) => asking(w, { model: "demo/slow", childKeyId: w.children.listed.id }),
    "model_not_found",
    "model",
  ],
  [
    "tokens without a model",
    authorize,
    "gm",
    (w) => asking(w, { amountNgonka: undefined, tokens: { inputTokens: 1 } }),
    INVALID,
    "model",
  ],
  [
    "tokens below zero",
    authorize,
    "gm",
    (w) =>
      asking(w, { amountNgonka: undefined, model: "demo/fast", tokens: { maxOutputTokens: -1 } }),
    INVALID,
    "tokens.max_output_tokens",
  ],
  [
    "tokens whose price no int64 holds",
    authorize,
    "gm",
    (w) =>
      asking(w, {
        amountNgonka: undefined,
        model: "demo/dear",
        tokens: { inputTokens: INT32_MAX },
      }),
    INVALID,
    "tokens",
  ],
  [
    "more than the day's limit",
    authorize,
    "gm",
    (w) => asking(w, { amountNgonka: "100000000" }),
    "child_key_limit_exceeded",
  ],
  [
    "anything, of a child that may spend nothing",
    authorize,
    "gm",
    child((w) => w.children.poor.id),
    "child_key_limit_exceeded",
  ],
  [
    "more than the balance",
    authorize,
    "gm",
    (w) => asking(w, { childKeyId: w.children.listed.id, amountNgonka: MAX }),
    "insufficient_balance",
  ],
  ...(["open", "captured", "voided", "swept"] as const).flatMap((state): Row[] => [
    [
      `another amount on the id of a hold that is ${state}`,
      authorize,
      "gm",
      (w) => asking(w, { holdId: w.holds[state], amountNgonka: "1001" }),
      "idempotency_conflict",
      "hold_id",
    ],
    [
      `another child on the id of a hold that is ${state}`,
      authorize,
      "gm",
      (w) => asking(w, { holdId: w.holds[state], childKeyId: w.children.listed.id }),
      "idempotency_conflict",
      "hold_id",
    ],
    [
      `another deadline on the id of a hold that is ${state}`,
      authorize,
      "gm",
      (w) => asking(w, { holdId: w.holds[state], deadlineSeconds: 60 }),
      "idempotency_conflict",
      "hold_id",
    ],
  ]),
];

const endRows: Row[] = [
  ["no cost", capture, "gm", (w) => ({ holdId: w.holds.open }), INVALID, "cost_ngonka"],
  [
    "a cost below zero",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.open, costNgonka: "-1" }),
    INVALID,
    "cost_ngonka",
  ],
  [
    "more than was held",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.open, costNgonka: "1001" }),
    "capture_exceeds_hold",
  ],
  [
    "the most that int64 holds",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.open, costNgonka: MAX }),
    "capture_exceeds_hold",
  ],
  [
    "usage of a hold without a model",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.open, usage: { inputTokens: 1 } }),
    INVALID,
    "usage",
  ],
  [
    "usage below zero",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.open, usage: { outputTokens: -1 } }),
    INVALID,
    "usage.output_tokens",
  ],
  [
    "a voided hold",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.voided, costNgonka: "1" }),
    "hold_ended",
  ],
  [
    "a swept hold",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.swept, costNgonka: "1" }),
    "hold_ended",
  ],
  [
    "a swept hold at zero",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.swept, costNgonka: "0" }),
    "hold_ended",
  ],
  [
    "a captured hold at another cost",
    capture,
    "gm",
    (w) => ({ holdId: w.holds.captured, costNgonka: "599" }),
    "idempotency_conflict",
  ],
  ["a captured hold", voidHold, "gm", (w) => ({ holdId: w.holds.captured }), "hold_ended"],
  ["nothing to change", extend, "gm", (w) => ({ holdId: w.holds.open }), INVALID, "amount_ngonka"],
  [
    "an amount without its number",
    extend,
    "gm",
    (w) => ({ holdId: w.holds.open, amountNgonka: "1" }),
    INVALID,
    "extension",
  ],
  [
    "a number without its amount",
    extend,
    "gm",
    (w) => ({ holdId: w.holds.open, extension: 1 }),
    INVALID,
    "amount_ngonka",
  ],
  ...[0, -1, 10_001, INT32_MAX, -INT32_MAX - 1].map(
    (extension): Row => [
      `extension ${extension}`,
      extend,
      "gm",
      (w) => ({ holdId: w.holds.open, extension, amountNgonka: "1" }),
      INVALID,
      "extension",
    ],
  ),
  ...["0", "-1"].map(
    (amountNgonka): Row => [
      `an amount of ${amountNgonka}`,
      extend,
      "gm",
      (w) => ({ holdId: w.holds.open, extension: 1, amountNgonka }),
      INVALID,
      "amount_ngonka",
    ],
  ),
  ...[0, -1, 86_401, INT32_MAX, -INT32_MAX - 1].map(
    (deadlineSeconds): Row => [
      `an amount with a deadline of ${deadlineSeconds} s`,
      extend,
      "gm",
      (w) => ({ holdId: w.holds.open, extension: 1, amountNgonka: "1", deadlineSeconds }),
      INVALID,
      "deadline_seconds",
    ],
  ),
  [
    "more than the day's limit",
    extend,
    "gm",
    (w) => ({ holdId: w.holds.open, extension: 1, amountNgonka: "100000000" }),
    "child_key_limit_exceeded",
  ],
  ...(["captured", "voided", "swept"] as const).flatMap((state): Row[] => [
    [
      `an amount for a hold that is ${state}`,
      extend,
      "gm",
      (w) => ({ holdId: w.holds[state], extension: 1, amountNgonka: "1" }),
      "hold_ended",
    ],
    [
      `a deadline for a hold that is ${state}`,
      extend,
      "gm",
      (w) => ({ holdId: w.holds[state], deadlineSeconds: 60 }),
      "hold_ended",
    ],
  ]),
];

const ALL = [...idRows, ...unknownRows, ...authorizeRows, ...endRows];

const prepared = (rows: Row[]) =>
  rows.map(
    ([what, method, as, message, reason, param]): [string, () => ReturnType<typeof refusal>] => [
      `${method.name}: ${what}`,
      () => refusal(method, as, message, reason, param),
    ],
  );

const refusal = (
  method: DescMethod,
  as: Credential,
  message: (w: World) => JsonObject,
  reason: string,
  param: string | undefined,
) => ({
  expected: inRpc(reason, param),
  over: (call: Wire) => call(world, method, message(world), world.credentials[as]),
});

describe.each([
  ["Connect in JSON", overConnect, ALL],
  ["gRPC on its own port", overGrpc("grpc"), ALL],
  ["a stream", overStream, ALL.filter(([, method]) => method !== getHold)],
])("%s refuses, and changes nothing:", (_wire, call, rows) => {
  let before: Record<string, string>;
  beforeAll(async () => {
    before = await digestOf(world.sql);
  });
  afterEach(async () => expect(await digestOf(world.sql)).toEqual(before));

  test.each(prepared(rows))("%s", async (_what, prepare) => {
    const { expected, over } = prepare();
    expect(await over(call)).toEqual(expected);
  });
});

const tooLarge = [
  "9223372036854775808",
  "-9223372036854775809",
  "1e30",
  "1.5",
  "1,000",

  "",
];
const UNREADABLE = [
  ...tooLarge.flatMap((value): [string, string, DescMethod, JsonObject][] => [
    ["amount_ngonka", value, authorize, { holdId: newId(), amountNgonka: value }],
    ["amount_ngonka", value, extend, { holdId: newId(), extension: 1, amountNgonka: value }],
    ["cost_ngonka", value, capture, { holdId: newId(), costNgonka: value }],
  ]),
  ...[INT32_MAX + 1, 1.5, "many"].flatMap((value): [string, string, DescMethod, JsonObject][] => [
    ["deadline_seconds", `${value}`, authorize, { holdId: newId(), deadlineSeconds: value }],
    ["deadline_seconds", `${value}`, extend, { holdId: newId(), deadlineSeconds: value }],
    ["extension", `${value}`, extend, { holdId: newId(), extension: value }],
  ]),
];

describe("Connect in JSON refuses what no field of its kind holds, and changes nothing:", () => {
  test.each(UNREADABLE)("%s of %j in %s", async (param, _value, method, message) => {
    const before = await digestOf(world.sql);
    expect(await asManager(method, message)).toEqual(inRpc(INVALID, param));
    expect(await digestOf(world.sql)).toEqual(before);
  });
});

const ACCEPTED = { status: 0, reason: "accepted", param: undefined };

/** Calls as the management key. */
const asManager = (method: DescMethod, message: JsonObject) =>
  overConnect(world, method, message, world.credentials.gm);

test("what was held before its child was deleted can still be looked at, repeated and ended", async () => {
  const { id } = await world.gateway.aChild(world.credentials.gm, world.gm);
  const [captured, voided] = [newId(), newId()];
  const asked = (holdId: string) => asking(world, { holdId, childKeyId: id });
  for (const holdId of [captured, voided]) {
    expect(await asManager(authorize, asked(holdId))).toEqual(ACCEPTED);
  }
  const route = `DELETE /api/management/keys/${world.gm}/children/${id}`;
  await world.gateway.done(route, { bearer: world.credentials.gm });

  expect(await asManager(authorize, asked(captured))).toEqual(ACCEPTED);
  expect(await asManager(getHold, { holdId: captured })).toEqual(ACCEPTED);
  const more = { holdId: captured, extension: 1, amountNgonka: "1" };
  expect(await asManager(extend, more)).toEqual(inRpc("child_key_inactive"));
  expect(await asManager(capture, { holdId: captured, costNgonka: "7" })).toEqual(ACCEPTED);
  expect(await asManager(voidHold, { holdId: voided })).toEqual(ACCEPTED);
});

test("what was held is answered alike after its model changed its price, was disabled or left the list", async () => {
  const { gm: bearer, admin } = world.credentials;
  const { id } = await world.gateway.aChild(bearer, world.gm, { models: ["demo/slow"] });
  const held = { holdId: newId(), childKeyId: id, model: "demo/slow" };
  const asked = { ...held, tokens: { inputTokens: 1_000, maxOutputTokens: 2_000 } };
  const answer = () =>
    world.gateway.done("POST /keytoll.v1.HoldService/Authorize", {
      bearer,
      body: asked,
      headers: { "content-type": "application/json" },
    });
  const first = await answer();
  const setPrice = (terms: object) => {
    const price = { input_ngonka_per_mtok: "1000000", output_ngonka_per_mtok: "2000000" };
    const body = { ...price, ...terms };
    return world.gateway.done("PUT /api/admin/models/demo/slow", { bearer: admin, body });
  };

  await setPrice({ input_ngonka_per_mtok: "7000000" });
  expect(await answer()).toEqual(first);
  await setPrice({ enabled: false });
  const aNewOne = () => asManager(authorize, { ...asked, holdId: newId() });
  await vi.waitFor(async () => expect(await aNewOne()).toEqual(inRpc("model_not_found", "model")));
  expect(await answer()).toEqual(first);
  const other = { ...asked, tokens: { inputTokens: 1_001, maxOutputTokens: 2_000 } };
  expect(await asManager(authorize, other)).toEqual(inRpc("idempotency_conflict", "hold_id"));

  await setPrice({ enabled: true });
  const route = `PATCH /api/management/keys/${world.gm}/children/${id}`;
  await world.gateway.done(route, { bearer, body: { models: ["demo/fast"] } });
  expect(await answer()).toEqual(first);
  expect(await aNewOne()).toEqual(inRpc("model_not_found", "model"));
  expect(await asManager(voidHold, { holdId: held.holdId })).toEqual(ACCEPTED);
});

test("usage whose price no int64 holds exceeds its hold", async () => {
  const holdId = newId();
  const asked = asking(world, { holdId, model: "demo/dear" });
  expect(await asManager(authorize, asked)).toEqual(ACCEPTED);
  const usage = { inputTokens: INT32_MAX, outputTokens: INT32_MAX };
  expect(await asManager(capture, { holdId, usage })).toEqual(inRpc("capture_exceeds_hold"));
  expect(await asManager(voidHold, { holdId })).toEqual(ACCEPTED);
});

test("a suspended account authorizes nothing, and what it holds can be ended", async () => {
  const holdId = newId();
  expect(await asManager(authorize, asking(world, { holdId }))).toEqual(ACCEPTED);
  const account = `/api/admin/accounts/${world.account}`;
  const bearer = world.credentials.admin;
  await world.gateway.done(`POST ${account}/suspend`, { bearer, body: {} });
  expect(await asManager(authorize, asking(world))).toEqual(inRpc("account_suspended"));
  expect(await asManager(capture, { holdId, costNgonka: "1000" })).toEqual(ACCEPTED);
  await world.gateway.done(`POST ${account}/resume`, { bearer, body: {} });
  expect(await asManager(voidHold, { holdId: world.holds.open })).toEqual(ACCEPTED);
});

test("after all of that the books are right", async () => {
  const findings = await checkBooks(world.sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
});
