import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { createUpstream, type Upstream, type Watcher } from "../../src/inference/upstream.js";
import { specOf } from "../support/upstreams.js";

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

const upstreamOn = (port: number) => createUpstream(specOf({ url: `http://127.0.0.1:${port}/v1` }));
/** Changes nothing, and notes what it hears. */
const heard: string[] = [];
const watcher: Watcher = {
  answered(exchange) {
    heard.push(`answered ${exchange.status}`);
    return exchange;
  },
  failed(error, sent) {
    heard.push(`failed ${sent ? "sent" : "unsent"}`);
    return Promise.reject(error);
  },
  ended(broken) {
    heard.push(broken === undefined ? "ended" : "broken");
  },
};
const ask = (signal = new AbortController().signal) => upstream.post("/x", "{}", signal, watcher);
beforeEach(() => {
  heard.length = 0;
});

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
  expect(heard).toEqual(["failed sent", "answered 200", "broken"]);
});

test("an upstream that is not there, or breaks off, is unavailable, and its address stays in the cause", async () => {
  const closed = createServer().listen(0, "127.0.0.1");
  await once(closed, "listening");
  const { port } = closed.address() as AddressInfo;
  closed.close();
  await once(closed, "close");
  const gone = upstreamOn(port);
  const error = await gone
    .post("/x", "{}", new AbortController().signal, watcher)
    .catch((it: unknown) => it);
  expect(error).toMatchObject({ reason: "model_unavailable" });
  expect((error as Error).message).not.toContain("127.0.0.1");
  expect(String((error as Error).cause)).toContain(String(port));
  await gone.close();

  behave = (_, response) => response.writeHead(200).write("a", () => response.destroy());
  const exchange = await ask();
  await exchange.read();
  expect(await reasonOf(exchange.read())).toBe("model_unavailable");
  expect(heard).toEqual(["failed unsent", "answered 200", "broken"]);
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
  expect(heard).toEqual(["failed sent", "answered 200", "ended", "failed unsent"]);
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

test("what an upstream asks us to wait is read as seconds, as a fraction and as a date", async () => {
  const inTen = new Date(Date.now() + 10_000).toUTCString();
  const cases: [string, number | undefined][] = [
    ["7", 7],
    ["0.3", 1],
    [inTen, 10],
    ["Thu, 01 Jan 1970 00:00:00 GMT", 0],
    ["soon", undefined],
  ];
  for (const [header, seconds] of cases) {
    behave = (_, response) => response.writeHead(429, { "retry-after": header }).end("{}");
    const { retryAfter, discard } = await ask();
    discard();
    if (header === inTen) expect([9, 10]).toContain(retryAfter);
    else expect(retryAfter).toBe(seconds);
  }
});

test("an answer that nobody reads is let through so that its connection lives, but not without end", async () => {
  const own = upstreamOn((server.address() as AddressInfo).port);
  const askOwn = () => own.post("/x", "{}", new AbortController().signal, watcher);
  const connections = new Set<unknown>();
  behave = (request, response) => {
    connections.add(request.socket);
    response.writeHead(503).end("x".repeat(100_000));
  };
  (await askOwn()).discard();
  await vi.waitFor(() => expect(heard).toEqual(["answered 503", "ended"]));
  const closed = new Promise<void>((resolve) => {
    behave = (request, response) => {
      connections.add(request.socket);
      response.on("close", resolve).writeHead(503);
      const more = () => response.destroyed || response.write("x".repeat(65_536), more);
      more();
    };
  });
  (await askOwn()).discard();
  await closed;
  expect(connections.size).toBe(1);
  await own.close();
});
