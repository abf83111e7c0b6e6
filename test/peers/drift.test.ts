import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { expectBooksAreRight } from "../support/books.js";
import { type LiveGateway, startLiveGateway } from "../support/live-gateway.js";

const LIMIT = 40_000_000n;
const LANES = 6;

let gateway: LiveGateway;
beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
});
afterAll(() => gateway?.close());

interface Situation {
  gm: { id: string; secret: string };
  gc: { id: string; secret: string };
}

const chat = (secret: string, fields: object, signal?: AbortSignal) =>
  fetch(`${gateway.http}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}` },
    body: JSON.stringify({ messages: [{ role: "user", content: "hi" }], ...fields }),
    ...(signal && { signal }),
  });

/** Every way in which a request can end: paid, refused, failed, cut, given up. */
async function endInEveryWay({ gc }: Situation): Promise<void> {
  const { secret } = gc;
  const whole = (fields: object) => chat(secret, fields).then((answer) => answer.text());
  const cut = () => whole({ model: "demo/cut", stream: true }).catch(() => "cut");
  await Promise.all([
    whole({ model: "demo/fast" }),
    whole({ model: "demo/no-usage", stream: true }),
    ...["demo/error-429", "demo/error-500", "demo/error-400"].map((model) => whole({ model })),
    cut(),
    whole({ model: "demo/fast", max_tokens: 1_000_000 }),
  ]);
  const hangUp = new AbortController();
  const slow = await chat(secret, { model: "demo/slow", stream: true }, hangUp.signal);
  await slow.body?.getReader().read();
  hangUp.abort();
  const unanswered = new AbortController();
  const never = chat(secret, { model: "demo/hang" }, unanswered.signal).catch(() => undefined);
  await gateway.rest("GET /v1/key", { bearer: secret });
  unanswered.abort();
  await never;
}

const authorize = (bearer: string, child_key_id: string, amount: bigint) =>
  gateway.rest("POST /keytoll.v1.HoldService/Authorize", {
    bearer,
    headers: { "content-type": "application/json" },
    body: { hold_id: newId(), child_key_id, amount_ngonka: `${amount}` },
  });

// LiteLLM #30460 (50 against 14), #40050 (111 against 56), #27639, #36926; new-api #4429
test("what a key is said to have spent is what its usage records say, however its requests ended, and all the rest can be spent", async () => {
  const { token } = await gateway.anOwner("drift@example.com", "1000000000");
  const gm = await gateway.aManagementKey(token);
  const gc = await gateway.aChild(token, gm.id, { limit_daily_ngonka: `${LIMIT}` });
  await Promise.all(Array.from({ length: LANES }, () => endInEveryWay({ gm, gc })));
  await vi.waitFor(async () => {
    expect(await gateway.sql`select from open_hold where child_key_id = ${gc.id}`).toHaveLength(0);
  });

  const [records] = await gateway.sql<{ cost: bigint; requests: number }[]>`
    select sum(cost)::bigint as cost, count(*)::int as requests from usage_record
     where child_key_id = ${gc.id}`;
  const spent = records?.cost ?? 0n;
  expect(records?.requests).toBeGreaterThanOrEqual(4 * LANES);
  const route = `GET /api/management/keys/${gm.id}/children/${gc.id}`;
  const told = (await gateway.rest(route, { bearer: gm.secret })).json;
  expect(told).toMatchObject({
    ...{ used_daily_ngonka: `${spent}`, used_total_ngonka: `${spent}` },
    ...{ daily_remaining: `${LIMIT - spent}`, requests_total: `${records?.requests}` },
  });
  const own = (await gateway.rest("GET /v1/key", { bearer: gc.secret })).json;
  expect(JSON.stringify(own)).toContain(`"${LIMIT - spent}"`);

  const tooMuch = await authorize(gm.secret, gc.id, LIMIT - spent + 1n);
  expect(JSON.stringify(tooMuch.json)).toContain("CHILD_KEY_LIMIT_EXCEEDED");
  expect((await authorize(gm.secret, gc.id, LIMIT - spent)).status).toBe(200);
  expect((await authorize(gm.secret, gc.id, 1n)).status).toBe(429);
  await expectBooksAreRight(gateway.sql);
});
