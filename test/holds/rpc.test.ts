import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { checkBooks } from "../../src/check/check.js";
import type { Gateway } from "../../src/server.js";
import { ADMIN, type LiveGateway, restClient, startLiveGateway } from "../support/live-gateway.js";

type Json = Record<string, unknown>;
type Method = "Authorize" | "Capture" | "Void" | "Extend" | "GetHold";

let a: LiveGateway;
let second: Gateway;
let b: ReturnType<typeof restClient>;
let owner: { account: string; token: string };
let gm: { id: string; secret: string };
let child: { id: string; secret: string };

beforeAll(async () => {
  a = await startLiveGateway();
  await a.priceDemoModels("1000000", "2000000");
  second = await a.startAnother();
  b = restClient(second.http);
  owner = await a.anOwner("owner@example.com", "1000000000");
  gm = await a.aManagementKey(owner.token);
  child = await a.aChild(gm.secret, gm.id, { limit_daily_ngonka: "100000000" });
});
afterAll(async () => {
  await second?.close();
  await a?.close();
});

/** What a gateway answers, or the reason of its refusal. */
async function call(
  at: { rest: LiveGateway["rest"] },
  method: Method,
  body: Json,
  bearer = gm.secret,
): Promise<Json | string> {
  const headers = { "content-type": "application/json" };
  const route = `POST /keytoll.v1.HoldService/${method}`;
  const { status, json } = await at.rest(route, { bearer, body, headers });
  if (status === 200) return json;
  const [detail] = (json.details ?? []) as { debug?: { reason?: string } }[];
  return detail?.debug?.reason?.toLowerCase() ?? JSON.stringify(json);
}

const asking = (holdId: string, more: Json = {}): Json => ({
  holdId,
  childKeyId: child.id,
  amountNgonka: "1000",
  ...more,
});

async function authorizedByA(more: Json = {}): Promise<string> {
  const holdId = newId();
  const answer = await call(a, "Authorize", asking(holdId, more));
  expect(answer).toMatchObject({ hold: { holdId, status: "HOLD_STATUS_OPEN" } });
  return holdId;
}

test("every call gives the same answer when it is repeated, also by a gateway that knows nothing of it", async () => {
  const [captured, voided] = [newId(), newId()];
  const calls: [Method, Json][] = [
    ["Authorize", asking(captured)],
    ["Extend", { holdId: captured, extension: 1, amountNgonka: "500" }],
    ["Capture", { holdId: captured, costNgonka: "1200" }],
    ["Authorize", asking(voided)],
    ["Void", { holdId: voided }],
  ];
  for (const [method, body] of calls) {
    const first = await call(a, method, body);
    expect(first).toBeTypeOf("object");
    for (const gateway of [a, b, a]) expect(await call(gateway, method, body)).toEqual(first);
  }
});

test("a capture's answer is the hold as it stands, at the gateway that opened it and at any other", async () => {
  for (const gateway of [a, b]) {
    const holdId = await authorizedByA();
    const answer = await call(gateway, "Capture", { holdId, costNgonka: "600" });
    expect(answer).toMatchObject({
      hold: { status: "HOLD_STATUS_CAPTURED", amountNgonka: "1000", capturedNgonka: "600" },
    });
    expect(await call(a, "GetHold", { holdId })).toEqual(answer);
    expect(await call(b, "GetHold", { holdId })).toEqual(answer);
  }
});

test("what another gateway added to a hold can be captured, and no more", async () => {
  const holdId = await authorizedByA();
  await call(b, "Extend", { holdId, extension: 1, amountNgonka: "500" });
  expect(await call(a, "Capture", { holdId, costNgonka: "1501" })).toBe("capture_exceeds_hold");
  expect(await call(a, "Capture", { holdId, costNgonka: "1500" })).toMatchObject({
    hold: { amountNgonka: "1500", capturedNgonka: "1500" },
  });
});

test("a hold that was swept has ended for the gateway that opened it", async () => {
  const holdId = await authorizedByA();
  await a.sql`update open_hold set deadline = authorized_at where id = ${holdId}`;
  await a.sql`select sweep_holds(100, interval '0')`;
  expect(await call(a, "Capture", { holdId, costNgonka: "1" })).toBe("hold_ended");
  expect(await call(a, "Extend", { holdId, deadlineSeconds: 60 })).toBe("hold_ended");
  const more = { holdId, extension: 1, amountNgonka: "1" };
  expect(await call(a, "Extend", more)).toBe("hold_ended");
  const { hold } = (await call(a, "Void", { holdId })) as { hold: Json };
  expect(hold).toMatchObject({ status: "HOLD_STATUS_VOIDED" });
});

test("a hold that another gateway ended has ended, whatever this one remembers", async () => {
  const voided = await authorizedByA();
  await call(b, "Void", { holdId: voided });
  expect(await call(a, "Capture", { holdId: voided, costNgonka: "1" })).toBe("hold_ended");
  const captured = await authorizedByA();
  await call(b, "Capture", { holdId: captured, costNgonka: "1" });
  expect(await call(a, "Void", { holdId: captured })).toBe("hold_ended");
  const other = { holdId: captured, costNgonka: "2" };
  expect(await call(a, "Capture", other)).toBe("idempotency_conflict");
});

test("of two costs that two gateways capture at once one is paid, and its caller alone is told so", async () => {
  for (let round = 0; round < 20; round++) {
    const holdId = await authorizedByA();
    const answers = await Promise.all([
      call(a, "Capture", { holdId, costNgonka: "600" }),
      call(b, "Capture", { holdId, costNgonka: "601" }),
    ]);
    const paid = answers.filter((answer) => typeof answer === "object");
    expect(paid).toHaveLength(1);
    expect(answers).toContain("idempotency_conflict");
    expect(await call(a, "GetHold", { holdId })).toEqual(paid[0]);
  }
});

test("one id that two gateways authorize at once is one hold", async () => {
  for (let round = 0; round < 20; round++) {
    const holdId = newId();
    const [first, other] = await Promise.all(
      [a, b].map((gateway) => call(gateway, "Authorize", asking(holdId))),
    );
    expect(first).toEqual(other);
  }
});

test("usage is priced as it was when its hold was opened, by every gateway", async () => {
  const model = "demo/fast";
  const [mine, others] = [await authorizedByA({ model }), await authorizedByA({ model })];
  const body = { input_ngonka_per_mtok: "7000000", output_ngonka_per_mtok: "7000000" };
  await a.done(`PUT /api/admin/models/${model}`, { bearer: ADMIN, body });
  const usage = { inputTokens: 100, outputTokens: 200 };
  for (const [gateway, holdId] of [[a, mine] as const, [b, others] as const]) {
    const answer = await call(gateway, "Capture", { holdId, usage });
    expect(answer).toMatchObject({ hold: { capturedNgonka: "500" } });
  }
});

test("a child or management key that was stopped in the database alone authorizes nothing more", async () => {
  const other = await a.aManagementKey(owner.token);
  const { id: childKeyId } = await a.aChild(owner.token, other.id);
  const authorize = () => call(a, "Authorize", asking(newId(), { childKeyId }), other.secret);
  expect(await authorize()).toBeTypeOf("object");
  for (const table of ["child_key", "management_key"]) {
    const id = table === "child_key" ? childKeyId : other.id;
    await a.sql`update ${a.sql(table)} set status = 'disabled' where id = ${id}`;
    expect(await authorize()).toBe("child_key_inactive");
    await a.sql`update ${a.sql(table)} set status = 'active' where id = ${id}`;
  }
  expect(await authorize()).toBeTypeOf("object");
});

test("a management key that another gateway disabled ends no holds either", async () => {
  const other = await a.aManagementKey(owner.token);
  const { id: childKeyId } = await a.aChild(owner.token, other.id);
  const holdId = newId();
  await call(a, "Authorize", asking(holdId, { childKeyId }), other.secret);
  const body = { status: "disabled" };
  await b.done(`PATCH /api/management/keys/${other.id}`, { bearer: owner.token, body });
  const voiding = () => call(a, "Void", { holdId: newId() }, other.secret);
  await vi.waitFor(async () => expect(await voiding()).toBe("invalid_api_key"));
  expect(await call(a, "Void", { holdId }, other.secret)).toBe("invalid_api_key");
  expect(await call(a, "Void", { holdId }, owner.token)).toBeTypeOf("object");
});

test("a hold that one manager opened is not there for another, also where it is remembered", async () => {
  const sibling = await a.aManagementKey(owner.token);
  const stranger = await a.anOwner("stranger@example.com");
  const holdId = await authorizedByA();
  for (const bearer of [sibling.secret, stranger.token]) {
    for (const gateway of [a, b]) {
      const capture = await call(gateway, "Capture", { holdId, costNgonka: "1" }, bearer);
      expect(capture).toBe("not_found");
      expect(await call(gateway, "Void", { holdId }, bearer)).toBe("not_found");
    }
  }
  expect(await call(a, "Capture", { holdId, costNgonka: "1" }, owner.token)).toBeTypeOf("object");
});

test("after all of that the books are right", async () => {
  const findings = await checkBooks(a.sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
});
