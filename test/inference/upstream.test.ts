import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { createUpstream, type Upstream } from "../../src/inference/upstream.js";

let behave: (request: IncomingMessage, response: ServerResponse) => void;
const server = createServer((request, response) => behave(request, response));
let upstream: Upstream;
beforeAll(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  upstream = upstreamOn((server.address() as AddressInfo).port);
});
afterAll(async () => {
  await upstream.close();
  server.closeAllConnections();
  server.close();
});

const upstreamOn = (port: number) =>
  createUpstream(
    { name: "test", url: `http://127.0.0.1:${port}/v1`, key: "k", models: null },
    { headers: 1_000, idle: 1_000 },
  );
const ask = (signal = new AbortController().signal) => upstream.post("/x", "{}", signal);

async function reasonOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error instanceof Refusal ? error.reason : String(error);
}

test("an upstream that never answers, or falls silent within its answer, has timed out", async () => {
  behave = () => {};
  expect(await reasonOf(ask())).toBe("upstream_timeout");
  behave = (_, response) => response.writeHead(200).write("a");
  const exchange = await ask();
  expect(String(await exchange.read())).toBe("a");
  expect(await reasonOf(exchange.read())).toBe("upstream_timeout");
});

test("an upstream that is not there, or breaks off, is unavailable, and its address stays in the cause", async () => {
  const closed = createServer().listen(0, "127.0.0.1");
  await once(closed, "listening");
  const { port } = closed.address() as AddressInfo;
  closed.close();
  await once(closed, "close");
  const gone = upstreamOn(port);
  const error = await gone
    .post("/x", "{}", new AbortController().signal)
    .catch((it: unknown) => it);
  expect(error).toMatchObject({ reason: "model_unavailable" });
  expect((error as Error).message).not.toContain("127.0.0.1");
  expect(String((error as Error).cause)).toContain(String(port));
  await gone.close();

  behave = (_, response) => response.writeHead(200).write("a", () => response.destroy());
  const exchange = await ask();
  await exchange.read();
  expect(await reasonOf(exchange.read())).toBe("model_unavailable");
});

test("a caller who hangs up closes the upstream's connection at once, before its answer and within", async () => {
  for (const answers of [false, true]) {
    const hangUp = new AbortController();
    const closed = new Promise<void>((resolve) => {
      behave = (_, response) => {
        response.on("close", resolve);
        if (answers) response.writeHead(200).write("a");
        else hangUp.abort(new Error("gone"));
      };
    });
    const reading = ask(hangUp.signal).then(async (exchange) => {
      await exchange.read();
      hangUp.abort(new Error("gone"));
      await exchange.read();
    });
    expect(await reasonOf(reading)).toBe("Error: gone");
    await closed;
  }
  const before = new AbortController();
  before.abort(new Error("gone"));
  expect(await reasonOf(ask(before.signal))).toBe("Error: gone");
});

test("an upstream that is faster than its reader is made to wait, and nothing is lost", async () => {
  const size = 32 * 1024 * 1024;
  let waited = false;
  behave = (_, response) => {
    response.writeHead(200);
    waited = !response.write(Buffer.alloc(size));
    response.end();
  };
  const exchange = await ask();
  let read = 0;
  let most = 0;
  for (let pieces = await exchange.read(); pieces; pieces = await exchange.read()) {
    const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
    read += bytes;
    most = Math.max(most, bytes);
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(waited).toBe(true);
  expect(read).toBe(size);
  expect(most).toBeLessThan(1024 * 1024);
});
