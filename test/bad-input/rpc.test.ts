import type { DescMethod, JsonObject } from "@bufbuild/protobuf";
import { Client, credentials, Metadata, status } from "@grpc/grpc-js";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { AccountService } from "../../src/gen/keytoll/v1/account_pb.js";
import { AdminService } from "../../src/gen/keytoll/v1/admin_pb.js";
import { AuthService } from "../../src/gen/keytoll/v1/auth_pb.js";
import { HoldService } from "../../src/gen/keytoll/v1/hold_pb.js";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";
import { KeyService } from "../../src/gen/keytoll/v1/key_pb.js";
import { inRpc, overConnect, overGrpc } from "./wires.js";
import { buildWorld, type Credential, digestOf, type World } from "./world.js";

let world: World;
let before: Record<string, string>;
beforeAll(async () => {
  world = await buildWorld();
  before = await digestOf(world.sql);
});
afterAll(() => world?.close());
afterEach(async () => expect(await digestOf(world.sql)).toEqual(before));

/** What is wrong, who calls what with which message, and how it must end. */
type Row = [
  what: string,
  method: DescMethod,
  as: Credential,
  message: (w: World) => JsonObject,
  reason: string,
  param?: string,
];

const { createManagementKey, getManagementKey, listManagementKeys, updateManagementKey } =
  KeyService.method;
const { deleteManagementKey, rotateManagementKey, createChildKey, getChildKey } = KeyService.method;
const { listChildKeys, updateChildKey, deleteChildKey, rotateChildKey } = KeyService.method;
const { register, login } = AuthService.method;
const { creditAccount, suspendAccount, resumeAccount, setModelPrice, listAccounts } =
  AdminService.method;
const { createChatCompletion, streamChatCompletion } = InferenceService.method;

const INVALID = "invalid_request_error";
const PAST = "2020-01-01T00:00:00Z";
const mine = (w: World) => ({ managementKeyId: w.gm });
const ref = (w: World) => ({ ...mine(w), childKeyId: w.children.active.id });
const price = { model: "demo/new", inputNgonkaPerMtok: "1", outputNgonkaPerMtok: "1" };
const account = { email: "new@example.com", password: "long enough for all" };

const keys: Row[] = [
  ["no name", createManagementKey, "owner", () => ({}), INVALID, "name"],
  ["a long name", createManagementKey, "owner", () => ({ name: "n".repeat(101) }), INVALID, "name"],
  [
    "an expiry in the past",
    createManagementKey,
    "owner",
    () => ({ name: "A", expiresAt: PAST }),
    INVALID,
    "expires_at",
  ],
  [
    "an access of no meaning",
    createManagementKey,
    "owner",
    () => ({ name: "A", access: 9 }),
    INVALID,
    "access",
  ],
  ["no id", getManagementKey, "owner", () => ({}), INVALID, "management_key_id"],
  [
    "another owner's id",
    getManagementKey,
    "owner",
    (w) => ({ managementKeyId: w.strangerGm }),
    "not_found",
  ],
  [
    "a sibling's id",
    getManagementKey,
    "gm",
    (w) => ({ managementKeyId: w.siblingGm }),
    "not_found",
  ],
  ["no rows", listManagementKeys, "owner", () => ({ limit: 0 }), INVALID, "limit"],
  ["too many rows", listManagementKeys, "owner", () => ({ limit: 101 }), INVALID, "limit"],
  ["a bad cursor", listManagementKeys, "owner", () => ({ cursor: "x" }), INVALID, "cursor"],
  [
    "no mask",
    updateManagementKey,
    "gm",
    (w) => ({ ...mine(w), name: "A" }),
    INVALID,
    "update_mask",
  ],
  [
    "an unknown path in the mask",
    updateManagementKey,
    "gm",
    (w) => ({ ...mine(w), updateMask: "colour" }),
    INVALID,
    "update_mask",
  ],
  [
    "a status that cannot be set",
    updateManagementKey,
    "gm",
    (w) => ({ ...mine(w), updateMask: "status", status: "KEY_STATUS_EXPIRED" }),
    INVALID,
    "status",
  ],
  [
    "another owner's id",
    updateManagementKey,
    "owner",
    (w) => ({ managementKeyId: w.strangerGm, updateMask: "name", name: "A" }),
    "not_found",
  ],
  [
    "another owner's id",
    deleteManagementKey,
    "owner",
    (w) => ({ managementKeyId: w.strangerGm }),
    "not_found",
  ],
  ["no id", deleteManagementKey, "owner", () => ({}), INVALID, "management_key_id"],
  [
    "another owner's id",
    rotateManagementKey,
    "owner",
    (w) => ({ managementKeyId: w.strangerGm }),
    "not_found",
  ],
  [
    "a grace below zero",
    rotateManagementKey,
    "gm",
    (w) => ({ ...mine(w), graceSeconds: -1 }),
    INVALID,
    "grace_seconds",
  ],
  [
    "a grace of 31 days",
    rotateChildKey,
    "gm",
    (w) => ({ ...ref(w), graceSeconds: 2_678_400 }),
    INVALID,
    "grace_seconds",
  ],
];

const children: Row[] = [
  [
    "no management key",
    createChildKey,
    "owner",
    () => ({ name: "A" }),
    INVALID,
    "management_key_id",
  ],
  ["no name", createChildKey, "gm", mine, INVALID, "name"],
  ...(["Daily", "Monthly", "Total"] as const).map(
    (period): Row => [
      `a ${period.toLowerCase()} limit below zero`,
      createChildKey,
      "gm",
      (w) => ({ ...mine(w), name: "A", [`limit${period}Ngonka`]: "-1" }),
      INVALID,
      `limit_${period.toLowerCase()}_ngonka`,
    ],
  ),
  ...[0, -1, 1_000_001].map(
    (rateLimitRpm): Row => [
      `${rateLimitRpm} requests a minute`,
      createChildKey,
      "gm",
      (w) => ({ ...mine(w), name: "A", rateLimitRpm }),
      INVALID,
      "rate_limit_rpm",
    ],
  ),
  [
    "an expiry in the past",
    createChildKey,
    "gm",
    (w) => ({ ...mine(w), name: "A", expiresAt: PAST }),
    INVALID,
    "expires_at",
  ],
  [
    "an empty model",
    createChildKey,
    "gm",
    (w) => ({ ...mine(w), name: "A", models: [""] }),
    INVALID,
    "models[0]",
  ],
  [
    "a value that Postgres cannot store",
    createChildKey,
    "gm",
    (w) => ({ ...mine(w), name: "A", metadata: { a: "\u0000" } }),
    INVALID,
    "metadata.a",
  ],
  [
    "a name that Postgres cannot store",
    createChildKey,
    "gm",
    (w) => ({ ...mine(w), name: "a\u0000b" }),
    INVALID,
    "name",
  ],
  ["no child", getChildKey, "gm", mine, INVALID, "child_key_id"],
  [
    "a sibling's child",
    getChildKey,
    "gm",
    (w) => ({ ...mine(w), childKeyId: w.siblingChild.id }),
    "not_found",
  ],
  [
    "another owner's child",
    getChildKey,
    "owner",
    (w) => ({ managementKeyId: w.strangerGm, childKeyId: w.strangerChild.id }),
    "not_found",
  ],
  [
    "another owner's key",
    listChildKeys,
    "owner",
    (w) => ({ managementKeyId: w.strangerGm }),
    "not_found",
  ],
  [
    "a status of no meaning",
    listChildKeys,
    "gm",
    (w) => ({ ...mine(w), status: 9 }),
    INVALID,
    "status",
  ],
  ["a long search", listChildKeys, "gm", (w) => ({ ...mine(w), q: "q".repeat(101) }), INVALID, "q"],
  ["no mask", updateChildKey, "gm", (w) => ({ ...ref(w), name: "A" }), INVALID, "update_mask"],
  [
    "a mask that names an own id",
    updateChildKey,
    "gm",
    (w) => ({ ...ref(w), updateMask: "childKeyId" }),
    INVALID,
    "update_mask",
  ],
  [
    "a name that is removed",
    updateChildKey,
    "gm",
    (w) => ({ ...ref(w), updateMask: "name" }),
    INVALID,
    "name",
  ],
  [
    "a limit below zero",
    updateChildKey,
    "gm",
    (w) => ({ ...ref(w), updateMask: "limitDailyNgonka", limitDailyNgonka: "-5" }),
    INVALID,
    "limit_daily_ngonka",
  ],
  [
    "another owner's child",
    updateChildKey,
    "owner",
    (w) => ({
      managementKeyId: w.strangerGm,
      childKeyId: w.strangerChild.id,
      updateMask: "name",
      name: "Mine",
    }),
    "not_found",
  ],
  [
    "another owner's child",
    deleteChildKey,
    "owner",
    (w) => ({ ...mine(w), childKeyId: w.strangerChild.id }),
    "not_found",
  ],
  [
    "another owner's child",
    rotateChildKey,
    "owner",
    (w) => ({ managementKeyId: w.strangerGm, childKeyId: w.strangerChild.id }),
    "not_found",
  ],
];

const accounts: Row[] = [
  ["no e-mail", register, "nobody", () => ({ password: account.password }), INVALID, "email"],
  ["no password", register, "nobody", () => ({ email: account.email }), INVALID, "password"],
  [
    "a short password",
    register,
    "nobody",
    () => ({ ...account, password: "short" }),
    INVALID,
    "password",
  ],
  [
    "an unknown code",
    register,
    "nobody",
    () => ({ ...account, referralCode: "NO" }),
    INVALID,
    "referral_code",
  ],
  [
    "a taken e-mail",
    register,
    "nobody",
    () => ({ ...account, email: "Owner@example.com" }),
    "email_taken",
  ],
  ["no e-mail", login, "nobody", () => ({ password: "p" }), INVALID, "email"],
  ["no password", login, "nobody", () => ({ email: account.email }), INVALID, "password"],
  [
    "a wrong password",
    login,
    "nobody",
    () => ({ ...account, email: "owner@example.com" }),
    "invalid_api_key",
  ],
  ["no rows", AccountService.method.listTransfers, "owner", () => ({ limit: 0 }), INVALID, "limit"],
  [
    "no account",
    creditAccount,
    "admin",
    () => ({ amountNgonka: "1", reference: "r" }),
    INVALID,
    "account_id",
  ],
  ...(["0", "-1", "-9223372036854775808"] as const).map(
    (amountNgonka): Row => [
      `a credit of ${amountNgonka}`,
      creditAccount,
      "admin",
      (w) => ({ accountId: w.account, amountNgonka, reference: "r" }),
      INVALID,
      "amount_ngonka",
    ],
  ),
  [
    "more than a balance can be",
    creditAccount,
    "admin",
    (w) => ({ accountId: w.account, amountNgonka: "9223372036854775807", reference: "r" }),
    INVALID,
    "amount_ngonka",
  ],
  [
    "no reference",
    creditAccount,
    "admin",
    (w) => ({ accountId: w.account, amountNgonka: "1" }),
    INVALID,
    "reference",
  ],
  [
    "an unknown account",
    creditAccount,
    "admin",
    (w) => ({ accountId: w.nowhere, amountNgonka: "1", reference: "r" }),
    "not_found",
  ],
  [
    "a reference that paid another amount",
    creditAccount,
    "admin",
    (w) => ({
      accountId: w.account,
      amountNgonka: "5",
      reference: "first payment of owner@example.com",
    }),
    "idempotency_conflict",
  ],
  ["an unknown account", suspendAccount, "admin", (w) => ({ accountId: w.nowhere }), "not_found"],
  [
    "a long reason",
    suspendAccount,
    "admin",
    (w) => ({ accountId: w.account, reason: "r".repeat(201) }),
    INVALID,
    "reason",
  ],
  ["an unknown account", resumeAccount, "admin", (w) => ({ accountId: w.nowhere }), "not_found"],
  ["no account", resumeAccount, "admin", () => ({}), INVALID, "account_id"],
  ["no model", setModelPrice, "admin", () => ({ ...price, model: "" }), INVALID, "model"],
  [
    "a model with blanks",
    setModelPrice,
    "admin",
    () => ({ ...price, model: "a b" }),
    INVALID,
    "model",
  ],
  [
    "a price below zero",
    setModelPrice,
    "admin",
    () => ({ ...price, outputNgonkaPerMtok: "-1" }),
    INVALID,
    "output_ngonka_per_mtok",
  ],
  [
    "no price",
    setModelPrice,
    "admin",
    () => ({ model: "demo/new", outputNgonkaPerMtok: "1" }),
    INVALID,
    "input_ngonka_per_mtok",
  ],
  [
    "no tokens of context",
    setModelPrice,
    "admin",
    () => ({ ...price, contextTokens: 0 }),
    INVALID,
    "context_tokens",
  ],
  ["an e-mail that is none", listAccounts, "admin", () => ({ email: "x" }), INVALID, "email"],
];

const messages = [{ role: "user", content: "hi" }];
const chat = { model: "demo/fast", messages };
const chatFaults: [what: string, completion: JsonObject, reason: string, param?: string][] = [
  ["no model", { messages }, INVALID, "model"],
  ["no messages", { model: "demo/fast" }, INVALID, "messages"],
  ["an unknown model", { ...chat, model: "demo/none" }, "model_not_found"],
  ["no tokens", { ...chat, maxTokens: 0 }, INVALID, "max_tokens"],
  ["fewer than no tokens", { ...chat, maxTokens: -1 }, INVALID, "max_tokens"],
  ["no answers", { ...chat, n: 0 }, INVALID, "n"],
  ["too many answers", { ...chat, n: 6 }, INVALID, "n"],
  ["a field of its own in extra", { ...chat, extra: { model: "x" } }, INVALID, "extra.model"],
  ["a costly parameter", { ...chat, extra: { best_of: 5 } }, INVALID, "best_of"],
  ["streaming by extra", { ...chat, extra: { stream: true } }, INVALID, "extra.stream"],
];
const inference: Row[] = chatFaults.flatMap(([what, completion, reason, param]): Row[] => {
  const end = param === undefined ? ([reason] as const) : ([reason, param] as const);
  return [
    [what, createChatCompletion, "gc", () => completion, ...end],
    [what, streamChatCompletion, "gc", () => ({ completion }), ...end],
  ];
});
inference.push(["no completion", streamChatCompletion, "gc", () => ({}), INVALID, "completion"]);

const named = ([what, method, as, message, reason, param]: Row): Row => {
  const name = `${method.name}: ${what}`;
  return param === undefined
    ? [name, method, as, message, reason]
    : [name, method, as, message, reason, param];
};
const ROWS = [...keys, ...children, ...accounts, ...inference].map(named);
const unary = ROWS.filter(([, method]) => method.methodKind === "unary");

describe.each([
  ["Connect in JSON", overConnect, unary],
  ["gRPC on its own port", overGrpc("grpc"), ROWS],
  ["gRPC on the shared port", overGrpc("http"), ROWS],
])("%s refuses", (_wire, call, rows) => {
  test.each(rows)("%s", async (_what, method, as, message, reason, param) => {
    const outcome = await call(world, method, message(world), world.credentials[as]);
    expect(outcome).toEqual(inRpc(reason, param));
  });
});

describe("Connect in JSON refuses by name what it cannot read:", () => {
  const authorize = HoldService.method.authorize;
  const rows: [string, DescMethod, Credential, string | JsonObject, string | undefined][] = [
    ["malformed JSON", createManagementKey, "owner", '{"name":', undefined],
    ["a list", createManagementKey, "owner", "[]", undefined],
    ["an unknown field", createManagementKey, "owner", { nmae: "A" }, "nmae"],
    ["a field given twice", createManagementKey, "owner", '{"name":"A","name":"B"}', "name"],
    ["a wrong type", createManagementKey, "owner", { name: 5 }, "name"],
    ["an unknown enum", createManagementKey, "owner", { access: "ALL" }, "access"],
    ["a bad time", createManagementKey, "owner", { expires_at: "soon" }, "expires_at"],
    ["a time as a number", createManagementKey, "owner", { expires_at: 5 }, "expires_at"],
    ["half a character", createManagementKey, "owner", '{"name":"a\\ud800"}', "name"],
    ["a float limit", createChildKey, "gm", { limit_daily_ngonka: 1.5 }, "limit_daily_ngonka"],
    ["a float in text", createChildKey, "gm", { limit_daily_ngonka: "1.5" }, "limit_daily_ngonka"],
    [
      "a limit over int64",
      createChildKey,
      "gm",
      { limit_total_ngonka: "9223372036854775808" },
      "limit_total_ngonka",
    ],
    ["requests over int32", createChildKey, "gm", { rate_limit_rpm: 2 ** 31 }, "rate_limit_rpm"],
    ["models as a text", createChildKey, "gm", { models: "demo/fast" }, "models"],
    ["a wrong item", createChildKey, "gm", { models: [1] }, "models"],
    ["a wrong pair", createChildKey, "gm", { metadata: { a: 1 } }, "metadata"],
    ["a bad mask", updateChildKey, "gm", { update_mask: 5 }, "update_mask"],
    [
      "an amount over int64",
      authorize,
      "gm",
      { amount_ngonka: "9223372036854775808" },
      "amount_ngonka",
    ],
    ["both keys", authorize, "gm", { child_key_id: "x", secret: "y" }, "key"],
    ["a wrong type inside", authorize, "gm", { tokens: { input_tokens: "x" } }, "input_tokens"],
    ["a message as text", createChatCompletion, "gc", { messages: "hi" }, "messages"],
  ];
  test.each(rows)("%s", async (_what, method, as, message, param) => {
    const outcome = await overConnect(world, method, message, world.credentials[as]);
    expect(outcome).toEqual(inRpc("invalid_request_error", param));
  });

  test("a message over 10 MiB", async () => {
    const message = JSON.stringify({ name: "x".repeat(10 * 1024 * 1024) });
    const outcome = await overConnect(world, createManagementKey, message, world.credentials.owner);
    expect(outcome).toEqual(inRpc("request_too_large"));
  });

  test("another method than POST", async () => {
    const path = `/${KeyService.typeName}/${createManagementKey.name}`;
    for (const verb of ["GET", "PUT", "DELETE"]) {
      const { status, headers } = await world.gateway.rest(`${verb} ${path}`);
      expect({ verb, status, allow: headers.get("allow") }).toEqual({
        verb,
        status: 405,
        allow: "POST",
      });
    }
  });
});

function raw(port: "grpc" | "http", path: string, bytes: Buffer): Promise<number> {
  const address = world.gateway[port].replace("http://", "");
  const options = { "grpc.max_send_message_length": -1 };
  const client = new Client(address, credentials.createInsecure(), options);
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${world.credentials.owner}`);
  return new Promise((resolve) => {
    const as = (it: Buffer) => it;
    client.makeUnaryRequest(path, as, as, bytes, metadata, (error) => {
      client.close();
      resolve(error?.code ?? 0);
    });
  });
}

const CREATE = `/${KeyService.typeName}/CreateManagementKey`;

describe.each(["grpc", "http"] as const)("gRPC on the %s port", (port) => {
  // Connect, which reads them on the shared port, calls it INTERNAL.
  const expected = port === "grpc" ? status.INVALID_ARGUMENT : status.INTERNAL;
  test(`bytes that are no message are ${status[expected]}, never accepted`, async () => {
    expect(await raw(port, CREATE, Buffer.from([0x0a, 0xff]))).toBe(expected);
  });

  test("an unknown method and an unknown service are UNIMPLEMENTED", async () => {
    const nothing = Buffer.alloc(0);
    expect(await raw(port, `/${KeyService.typeName}/No`, nothing)).toBe(status.UNIMPLEMENTED);
    expect(await raw(port, "/keytoll.v1.NoService/No", nothing)).toBe(status.UNIMPLEMENTED);
  });
});

test("a message over 10 MiB is RESOURCE_EXHAUSTED on gRPC's own port", async () => {
  const bytes = Buffer.alloc(10 * 1024 * 1024 + 1);
  expect(await raw("grpc", CREATE, bytes)).toBe(status.RESOURCE_EXHAUSTED);
});
