import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { type Child, startChild } from "../../src/dev/children.js";
import { startGuardian } from "../../src/dev/guardian.js";
import { stopProcess } from "../../src/dev/processes.js";
import { expectBooksAreRight } from "../support/books.js";
import { environment, restClient } from "../support/live-gateway.js";
import { PATIENCE, type Server, startServer } from "./outage.js";

const MODEL = "demo/fast";
const NOBODY = "127.0.0.1:1";

let server: Server;
let sql: Sql;
let upstream: Awaited<ReturnType<typeof startUpstream>>;
let dataDir: string;
const guardian = startGuardian();
beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), "keytoll-gateway-"));
  mkdirSync(join(dataDir, "logs"));
  [server, upstream] = await Promise.all([startServer(), startUpstream()]);
  sql = connect(server.url, { name: "test", max: 2 });
});
afterAll(async () => {
  await sql?.end({ timeout: 5 });
  upstream?.close();
  await server?.close();
  guardian.dismiss();
  rmSync(dataDir, { recursive: true, force: true });
});

/** An upstream that begins to answer at once, and ends when it is told to. */
async function startUpstream() {
  const open = new Set<() => void>();
  const chunk = (fields: object) => `data: ${JSON.stringify({ id: "x", ...fields })}\n\n`;
  const usage = { prompt_tokens: 11, completion_tokens: 5, total_tokens: 16 };
  const answer = (response: ServerResponse, streams: boolean) => {
    if (!streams) {
      const message = { role: "assistant", content: "hi there" };
      const choices = [{ index: 0, finish_reason: "stop", message }];
      open.add(() => response.end(JSON.stringify({ id: "x", created: 1, choices, usage })));
      return;
    }
    response.setHeader("content-type", "text/event-stream");
    response.write(chunk({ choices: [{ index: 0, delta: { content: "hi" } }] }));
    const last = chunk({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    const end = `${last}${chunk({ choices: [], usage })}data: [DONE]\n\n`;
    open.add(() => response.end(end));
  };
  const http = createServer((request, response) => {
    let body = "";
    request.on("data", (bytes: Buffer) => {
      body += bytes.toString();
    });
    request.on("end", () => answer(response, body.includes(`"stream":true`)));
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => http.once("listening", resolve));
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/v1`,
    waiting: () => open.size,
    finish() {
      for (const end of open) end();
      open.clear();
    },
    close: () => http.close(),
  };
}

const startGateway = () =>
  startChild<{ http: string }>({
    ...{ verb: "serve", kind: "gateway", dataDir, say: () => {} },
    watch: (it) => guardian.watch({ process: it, kind: "gateway" }),
    env: {
      ...{ PATH: process.env.PATH, HOME: process.env.HOME, TZ: "UTC" },
      ...environment(server.url, upstream.url),
      ...{ KEYTOLL_DATA_DIR: dataDir, TEMPORAL_ADDRESS: NOBODY },
    },
  });

const kill = ({ process: it }: Child<unknown>) => stopProcess(it, "SIGKILL", 1_000);

const spoolFiles = () =>
  readdirSync(dataDir, { recursive: true, encoding: "utf8" }).filter((it) => it.endsWith(".spool"));

test("a gateway killed right after its answers left, with Postgres and Temporal away, pays for all of them when it starts again", {
  timeout: 240_000,
}, async () => {
  const gateway = await startGateway();
  const first = restClient(gateway.ready.http);
  await first.priceDemoModels("15000001", "30000003");
  const owner = await first.anOwner("owner@example.com", "1000000000");
  const manager = await first.aManagementKey(owner.token);
  const child = await first.aChild(manager.secret, manager.id);

  const chat = async (stream: boolean) => {
    const messages = [{ role: "user", content: "hello" }];
    const body = { model: MODEL, messages, stream, stream_options: { include_usage: true } };
    const answer = await fetch(`${gateway.ready.http}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${child.secret}` },
      body: JSON.stringify(stream ? body : { ...body, stream_options: undefined }),
    });
    const text = await answer.text();
    return { status: answer.status, cost: /"cost_units":"(\d+)"/.exec(text)?.[1] };
  };
  const answers = [true, false].flatMap((stream) => Array.from({ length: 8 }, () => chat(stream)));
  const hold = { holdId: newId() };
  const ask = { ...hold, childKeyId: child.id, amountNgonka: "500", deadlineSeconds: 600 };
  const holdService = "POST /keytoll.v1.HoldService";
  const asManager = (body: object) => ({
    ...{ bearer: manager.secret, body, headers: { "content-type": "application/json" } },
  });
  await first.done(`${holdService}/Authorize`, asManager(ask));
  await vi.waitFor(() => expect(upstream.waiting()).toBe(16), PATIENCE);

  await server.stop();
  upstream.finish();
  const captureOfBackend = asManager({ ...hold, costNgonka: "400" });
  const [all, backend] = await Promise.all([
    Promise.all(answers),
    first.rest(`${holdService}/Capture`, captureOfBackend),
  ]);
  expect(all).toEqual(all.map(() => ({ status: 200, cost: all[0]?.cost })));
  expect(backend).toMatchObject({ status: 503, json: { code: "unavailable" } });
  const metrics = String((await first.rest("GET /metrics")).json.text);
  expect(metrics).toContain('keytoll_undelivered_ends{place="spool"} 16');
  expect(metrics).toContain('keytoll_handovers_total{to="spool"} 16');
  expect(metrics).toMatch(/^keytoll_undelivered_oldest_seconds \d/m);
  const { json } = await first.rest("GET /readyz");
  expect(json.dependencies).toContainEqual({
    ...{ name: "spool", ready: true, required: false, detail: "can be written" },
  });
  await kill(gateway);
  expect(spoolFiles().length).toBeGreaterThan(0);
  await server.start();

  const again = await startGateway();
  const paid = all.map((it) => BigInt(it.cost ?? 0)).reduce((sum, cost) => sum + cost);
  const [used] = await sql`
    select sum(request_cost)::bigint as cost, count(*)::int as n from ended_hold
     where child_key_id = ${child.id}`;
  expect(used).toEqual({ cost: paid, n: 16 });
  await restClient(again.ready.http).done(`${holdService}/Capture`, captureOfBackend);
  const [key] = await sql`
    select used_daily, held::int, requests_total::int from child_key where id = ${child.id}`;
  expect(key).toEqual({ used_daily: paid + 400n, held: 0, requests_total: 17 });
  await vi.waitFor(() => expect(spoolFiles()).toEqual([]));
  await expectBooksAreRight(sql);
  await stopProcess(again.process, "SIGTERM", 10_000);
});

test("a spool that cannot be written is named by readyz, and requests go on", {
  timeout: 120_000,
}, async () => {
  rmSync(join(dataDir, "spool"), { recursive: true, force: true });
  writeFileSync(join(dataDir, "spool"), "no folder");
  const gateway = await startGateway();
  const answer = await fetch(`${gateway.ready.http}/readyz`);
  const { dependencies } = (await answer.json()) as { dependencies: { name: string }[] };
  expect(answer.status).toBe(200);
  expect(dependencies.find(({ name }) => name === "spool")).toMatchObject({
    ...{ ready: false, required: false, detail: expect.stringMatching(/^cannot be written: /) },
  });
  await kill(gateway);
});
