import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { checkBooks } from "../src/check/check.js";
import { createTokens } from "../src/edge/auth.js";
import { sendDownload } from "../src/edge/wire/download.js";
import { fillHistory } from "./bench/history.js";
import { type LiveGateway, SECRET, startLiveGateway } from "./support/live-gateway.js";

let gateway: LiveGateway;
let owner: { account: string; token: string };
let gm: { id: string; secret: string };
let child: { id: string; secret: string };
let other: { id: string; secret: string };
const costs = { mine: 0n, others: 0n };
const today = new Date().toISOString().slice(0, 10);

beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
  owner = await gateway.anOwner("usage@example.com", "1000000000");
  gm = await gateway.aManagementKey(owner.token, { access: "read_only" });
  const second = await gateway.aManagementKey(owner.token);
  const formula = { name: '=HYPERLINK("http://example.com","a, b")' };
  child = await gateway.aChild(owner.token, gm.id, formula);
  other = await gateway.aChild(owner.token, second.id);
  for (let i = 0; i < 3; i++) costs.mine += await ask(child.secret, "demo/fast");
  costs.mine += await ask(child.secret, "demo/slow");
  costs.others += await ask(other.secret, "demo/fast");
});
afterAll(() => gateway?.close());

async function ask(bearer: string, model: string): Promise<bigint> {
  const body = { model, messages: [{ role: "user", content: "hello" }], max_tokens: 5 };
  const { usage } = await gateway.done("POST /v1/chat/completions", { bearer, body });
  return BigInt((usage as { cost_units: string }).cost_units);
}

const read = async (query: string, bearer = owner.token) =>
  (await gateway.done(`GET /api/account/usage${query}`, { bearer })) as {
    totals: Record<string, string>;
    data: Record<string, unknown>[];
    next_cursor: string | null;
  };

async function file(query: string, bearer = owner.token) {
  const answer = await fetch(`${gateway.http}/api/account/usage${query}`, {
    headers: { authorization: `Bearer ${bearer}` },
  });
  expect(answer.status).toBe(200);
  expect(answer.headers.get("content-type")).toBe("text/csv; charset=utf-8");
  return await answer.text();
}

test("an owner's usage is summed up by day, model and child, to what the answers said", async () => {
  const all = `${costs.mine + costs.others}`;
  const totals = { requests: "5", cost_ngonka: all };
  expect(await read("")).toMatchObject({ totals, data: [], next_cursor: null });
  const by = async (group: string) => (await read(`?group_by=${group}`)).data;
  expect(await by("day")).toMatchObject([{ day: today, ...totals }]);
  expect(await by("model")).toMatchObject([
    { model: "demo/fast", requests: "4" },
    { model: "demo/slow", requests: "1" },
  ]);
  expect((await by("child")).map((it) => [it.child_id, it.requests, it.cost_ngonka])).toEqual(
    [
      [child.id, "4", `${costs.mine}`],
      [other.id, "1", `${costs.others}`],
    ].toSorted(([a = ""], [b = ""]) => (a < b ? -1 : 1)),
  );
  const paged = await read("?group_by=model&limit=1");
  expect(paged).toMatchObject({ totals, data: [{ model: "demo/fast" }] });
  const rest = await read(`?group_by=model&limit=1&cursor=${paged.next_cursor}`);
  expect(rest).toMatchObject({ totals, data: [{ model: "demo/slow" }], next_cursor: null });
});

test("a management key that may only read sees its own children's usage", async () => {
  expect((await read("", gm.secret)).totals.cost_ngonka).toBe(`${costs.mine}`);
  const { data } = await read("/records", gm.secret);
  expect(data.map((it) => it.child_id)).toEqual(Array(4).fill(child.id));
  for (const path of ["", "/records"]) {
    const route = `GET /api/account/usage${path}?child_id=${other.id}`;
    expect((await gateway.rest(route, { bearer: gm.secret })).status).toBe(404);
    expect((await gateway.rest(route, { bearer: child.secret })).status).toBe(403);
    expect((await gateway.rest(route)).status).toBe(401);
  }
});

test("times are half-open, and may be days", async () => {
  const tomorrow = new Date(Date.now() + 86_400_000).toISOString().slice(0, 10);
  const count = async (query: string) => (await read(query)).totals.requests;
  expect(await count(`?from=${today}&to=${tomorrow}`)).toBe("5");
  expect(await count(`?to=${today}`)).toBe("0");
  const { data } = await read("/records");
  const [newest, , , , oldest] = data.map((it) => String(it.captured_at));
  // Times are shown in milliseconds and kept finer
  const after = new Date(new Date(newest ?? "").getTime() + 1).toISOString();
  expect(await count(`?from=${oldest}&to=${after}`)).toBe("5");
  expect(await count(`?from=${after}`)).toBe("0");
});

test("records are listed with all that was captured", async () => {
  const { data, next_cursor } = await read("/records?limit=1");
  expect(data).toEqual([
    {
      number: "5",
      hold_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      child_id: other.id,
      model: "demo/fast",
      input_tokens: "2",
      output_tokens: "5",
      cost_ngonka: `${costs.others}`,
      estimated: false,
      authorized_at: expect.stringContaining(today),
      captured_at: expect.stringContaining(today),
    },
  ]);
  const more = await read(`/records?limit=100&cursor=${next_cursor}`);
  expect(more.data.map((it) => it.number)).toEqual(["4", "3", "2", "1"]);
});

test("a file has all lines under a header, and no cell that a spreadsheet would run", async () => {
  const lines = (await file(`?group_by=child&format=csv&child_id=${child.id}`)).split("\r\n");
  expect(lines[0]).toBe("child_id,child_name,requests,input_tokens,output_tokens,cost_ngonka");
  expect(lines[1]).toBe(
    `${child.id},"'=HYPERLINK(""http://example.com"",""a, b"")",4,8,20,${costs.mine}`,
  );
  expect(lines.slice(2)).toEqual([""]);
  const all = (await file("/records?format=csv", gm.secret)).split("\r\n");
  expect(all[0]).toMatch(/^number,captured_at,.*,cost_ngonka,estimated$/);
  expect(all.slice(1, 5).map((line) => line.split(",")[0])).toEqual(["4", "3", "2", "1"]);
  expect(all.length).toBe(6);
  expect(await file("?format=csv")).toMatch(/^requests,.*\r\n5,10,25,\d+\r\n$/);
});

test("a file of more lines than a page is whole, each record once", async () => {
  const past = { records: 2_500, children: 3, accounts: 1, months: 1, settled: true };
  const [account = ""] = (await fillHistory(gateway.databaseUrl, past)).accounts;
  const { token } = await createTokens([SECRET]).issue(account);
  const lines = (await file("/records?format=csv", token)).trim().split("\r\n").slice(1);
  const numbers = lines.map((line) => Number(line.split(",")[0]));
  expect(numbers).toEqual(Array.from({ length: 2_500 }, (_, i) => 2_500 - i));
  const { totals } = await read("", token);
  const cost = lines.reduce((sum, line) => sum + BigInt(line.split(",")[8] ?? 0), 0n);
  expect(totals).toMatchObject({ requests: "2500", cost_ngonka: `${cost}` });
});

test("a file is made no faster than its reader reads, and no further once the reader leaves", async () => {
  let made = 0;
  let left = false;
  async function* endless() {
    try {
      for (;;) {
        made += 1;
        yield "x".repeat(100_000);
      }
    } finally {
      left = true;
    }
  }
  const server = createServer((_, response) => {
    void sendDownload(response, { type: "text/csv", filename: "x.csv", pieces: endless() }, "id");
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  socket.pause().write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  let before = -1;
  await vi.waitFor(
    () => {
      const grown = made !== before;
      before = made;
      expect([made > 0, grown]).toEqual([true, false]);
    },
    { interval: 200 },
  );
  expect(made).toBeLessThan(200);
  socket.destroy();
  await vi.waitFor(() => expect(left).toBe(true));
  server.close();
});

const wrong: [query: string, param: string][] = [
  ["?from=2026-11-02&to=2026-11-01", "from"],
  ["?from=yesterday", "from"],
  ["?from=2026-02-30", "from"],
  ["?to=1790000000", "to"],
  ["?group_by=hour", "group_by"],
  ["?format=xml", "format"],
  ["?format=csv&format=csv", "format"],
  ["?format=csv&limit=5", "limit"],
  ["/records?format=csv&cursor=x", "cursor"],
  ["/records?group_by=day", "group_by"],
  ["/records?limit=1001", "limit"],
  ["/records?cursor=x", "cursor"],
  ["?colour=red", "colour"],
];
test.each(wrong)(
  "GET /api/account/usage%s is refused by the parameter's name",
  async (query, param) => {
    const route = `GET /api/account/usage${query}`;
    const { status, json } = await gateway.rest(route, { bearer: owner.token });
    expect(status).toBe(400);
    expect(json).toMatchObject({ error: { code: "invalid_request_error", param } });
  },
);

test("afterwards the books are right", async () => {
  const findings = await checkBooks(gateway.sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
});
