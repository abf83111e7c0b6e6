import { afterAll, beforeAll, expect, test } from "vitest";
import { newId } from "../../src/base/ids.js";
import { ADMIN, type LiveGateway, startLiveGateway } from "../support/live-gateway.js";

let gateway: LiveGateway;
beforeAll(async () => {
  gateway = await startLiveGateway();
});
afterAll(() => gateway?.close());

const headers = { "content-type": "application/json" };

test("an id that was refused is admitted when it is asked again after a top-up, and only then", async () => {
  const { account, token } = await gateway.anOwner("retry@example.com", "99");
  const gm = await gateway.aManagementKey(token);
  const gc = await gateway.aChild(token, gm.id, { limit_daily_ngonka: "99" });
  const body = { hold_id: newId(), child_key_id: gc.id, amount_ngonka: "100" };
  const ask = () =>
    gateway.rest("POST /keytoll.v1.HoldService/Authorize", { bearer: gm.secret, headers, body });
  const reason = async () => JSON.stringify((await ask()).json);

  expect(await reason()).toContain("CHILD_KEY_LIMIT_EXCEEDED");
  expect(await reason()).toContain("CHILD_KEY_LIMIT_EXCEEDED");
  await gateway.done(`PATCH /api/management/keys/${gm.id}/children/${gc.id}`, {
    bearer: token,
    body: { limit_daily_ngonka: "100" },
  });
  expect(await reason()).toContain("INSUFFICIENT_BALANCE");
  const credit = { amount_ngonka: "1", reference: newId() };
  const route = `POST /api/admin/accounts/${account}/credits`;
  await gateway.done(route, { bearer: ADMIN, body: credit });
  const first = await ask();
  expect(first).toMatchObject({ status: 200, json: { hold: { status: "HOLD_STATUS_OPEN" } } });
  expect((await ask()).json.hold).toEqual(first.json.hold);
  const { json } = await gateway.rest("GET /api/account", { bearer: token });
  expect(json).toMatchObject({ held_ngonka: "100", available_ngonka: "0" });
});
