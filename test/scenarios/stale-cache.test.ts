import { afterAll, beforeAll, expect, test } from "vitest";
import { newId } from "../../src/base/ids.js";
import { type DemoUpstream, startDemoUpstream } from "../../src/inference/demo-upstream.js";
import { expectBooksAreRight, openDatabase } from "../support/books.js";
import { ADMIN, UPSTREAM_KEY } from "../support/live-gateway.js";
import { type Serving, startDeafLine, startServing } from "../support/serving.js";

/** An owner with a child on both gateways, and what was asked of the deaf one before. */
interface Situation {
  account: string;
  token: string;
  gm: { id: string; secret: string };
  gc: { id: string; secret: string };
}

let database: Awaited<ReturnType<typeof openDatabase>>;
let upstream: DemoUpstream;
let line: Awaited<ReturnType<typeof startDeafLine>>;
/** Where keys are changed. */
let near: Serving;
/** Whose cache hears of no change. */
let deaf: Serving;

beforeAll(async () => {
  database = await openDatabase(2);
  upstream = await startDemoUpstream({ port: 0, key: UPSTREAM_KEY });
  line = await startDeafLine(database.url);
  [near, deaf] = await Promise.all([
    startServing(database.url, upstream.url),
    startServing(line.url, upstream.url),
  ]);
  await near.priceDemoModels("1000000", "1000000");
  expect(line.deafen()).toBe(1);
});
afterAll(async () => {
  await Promise.all([near?.stop(), deaf?.stop()]);
  await line?.stop();
  await upstream?.close();
  await database?.close();
});

const chat = { model: "demo/fast", messages: [{ role: "user", content: "hi" }] };
const JSON_TYPE = { "content-type": "application/json" };

let owners = 0;
async function aSituation(): Promise<Situation> {
  owners += 1;
  const { account, token } = await near.anOwner(`stale${owners}@example.com`, "1000000000");
  const gm = await near.aManagementKey(token);
  const gc = await near.aChild(token, gm.id);
  return { account, token, gm, gc };
}

/** What the deaf gateway says to a request of the child, and to a backend's hold for it. */
async function spend({ token, gc }: Situation) {
  const hold = (key: object) =>
    deaf.rest("POST /keytoll.v1.HoldService/Authorize", {
      bearer: token,
      headers: JSON_TYPE,
      body: { hold_id: newId(), amount_ngonka: "10", ...key },
    });
  const answers = await Promise.all([
    deaf.rest("POST /v1/chat/completions", { bearer: gc.secret, body: chat }),
    deaf.rest("POST /v1/chat/completions", { bearer: gc.secret, body: { ...chat, stream: true } }),
    deaf.rest("POST /keytoll.v1.InferenceService/CreateChatCompletion", {
      bearer: gc.secret,
      headers: JSON_TYPE,
      body: chat,
    }),
    hold({ secret: gc.secret }),
    hold({ child_key_id: gc.id }),
  ]);
  return answers.map(({ status }) => status);
}

/** Only the cache is asked. */
const isBelievedIn = async ({ gc }: Situation): Promise<boolean> =>
  (await deaf.rest("GET /v1/models", { bearer: gc.secret })).status === 200;

const at = ({ gm, gc }: Situation) => `/api/management/keys/${gm.id}/children/${gc.id}`;
const ends: [name: string, end: (it: Situation) => Promise<unknown>, statuses: number[]][] = [
  [
    "a disabled child",
    (it) => near.done(`PATCH ${at(it)}`, { bearer: it.token, body: { status: "disabled" } }),
    [401, 401, 401, 401, 400],
  ],
  [
    "a deleted child",
    (it) => near.done(`DELETE ${at(it)}`, { bearer: it.token }),
    [401, 401, 401, 401, 400],
  ],
  [
    "a secret that was rotated out without grace",
    (it) => near.done(`POST ${at(it)}/rotate`, { bearer: it.token, body: { grace_seconds: 0 } }),
    // The child itself may spend
    [401, 401, 401, 401, 200],
  ],
  [
    "a child of a disabled management key",
    (it) =>
      near.done(`PATCH /api/management/keys/${it.gm.id}`, {
        bearer: it.token,
        body: { status: "disabled" },
      }),
    [401, 401, 401, 401, 400],
  ],
  [
    "a child of a deleted management key",
    (it) => near.done(`DELETE /api/management/keys/${it.gm.id}`, { bearer: it.token }),
    [401, 401, 401, 401, 400],
  ],
  [
    "a child of a suspended account",
    (it) =>
      near.done(`POST /api/admin/accounts/${it.account}/suspend`, { bearer: ADMIN, body: {} }),
    [403, 403, 400, 400, 400],
  ],
];

// LiteLLM #9820, #25553: deleted and expired keys went on working from a cache
test.each(ends)(
  "%s spends nothing, while another gateway's cache still believes in it",
  async (_, end, statuses) => {
    const situation = await aSituation();
    expect(await spend(situation)).toEqual([200, 200, 200, 200, 200]);
    const holds = () => database.sql<{ n: number }[]>`
      select (select count(*) from open_hold where account_id = ${situation.account})
           + (select count(*) from ended_hold where account_id = ${situation.account}) as n`;
    const [before] = await holds();
    await end(situation);
    expect(await isBelievedIn(situation)).toBe(true);
    expect(await spend(situation)).toEqual(statuses);
    expect(await isBelievedIn(situation)).toBe(true);
    const [after] = await holds();
    const admitted = statuses.filter((status) => status === 200).length;
    expect(Number(after?.n) - Number(before?.n)).toBe(admitted);
  },
);

test("a management key that was deleted changes nothing, while another gateway's cache still believes in it", async () => {
  const { token, gm, gc } = await aSituation();
  const children = `/api/management/keys/${gm.id}/children`;
  const read = () => deaf.rest(`GET ${children}/${gc.id}`, { bearer: gm.secret });
  expect((await read()).status).toBe(200);
  await near.done(`DELETE /api/management/keys/${gm.id}`, { bearer: token });
  const body = { name: "One more" };
  const made = await deaf.rest(`POST ${children}`, { bearer: gm.secret, body });
  expect(made.status).toBe(401);
  const raised = await deaf.rest(`PATCH ${children}/${gc.id}`, { bearer: gm.secret, body });
  expect(raised.status).toBe(401);
});

test("afterwards the books are right", () => expectBooksAreRight(database.sql));
