import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { CHROMIUM, openPage } from "../support/browser.js";
import type { Outcome, Task } from "./browser-page.js";
import { type ClientWorld, printRow, startClientWorld } from "./world.js";

let world: ClientWorld;
let browser: Awaited<ReturnType<typeof openPage>>;

beforeAll(async () => {
  world = await startClientWorld();
  if (CHROMIUM !== undefined) browser = await openPage("clients/browser-page.ts");
});
const cells: Record<string, string> = {};
const note = (...behaviours: (string | number)[]) => {
  for (const it of behaviours) cells[it] = "ok";
};
afterAll(async () => {
  printRow("@connectrpc/connect-web in Chromium", cells);
  await browser?.close();
  await world?.close();
});

const REQUEST_ID = /^[0-9a-f-]{36}$/;

describe.skipIf(CHROMIUM === undefined).each(["connect", "grpc-web"] as const)(
  "an unmodified @connectrpc/connect-web in Chromium, on a page of another origin, over %s",
  (protocol) => {
    const run = async (act: Task["act"], more: Partial<Task> = {}): Promise<Outcome> => {
      const { url: baseUrl, secrets } = world;
      const task: Task = { protocol, baseUrl, secret: secrets.good, act, ...more };
      return await browser.page.evaluate(
        (it) => (globalThis as unknown as { run(task: Task): Promise<Outcome> }).run(it),
        task,
      );
    };

    test("lists models, is answered and reads streams, each with its cost and id", async () => {
      const models = await run("models");
      expect(models).toMatchObject({ requestId: expect.stringMatching(REQUEST_ID) });
      expect(models.answer).toContain("demo/fast");
      const chat = await run("chat");
      expect(chat.requestId).toMatch(REQUEST_ID);
      const { text, cost } = chat.answer as Record<string, string>;
      expect(text).toContain("hello");
      expect(BigInt(cost ?? 0)).toBeGreaterThan(0n);
      const stream = await run("stream");
      expect(stream.requestId).toMatch(REQUEST_ID);
      expect(stream.answer).toMatchObject({ text, cost });
      expect((stream.answer as { chunks: number }).chunks).toBeGreaterThan(5);
      expect((await run("tool")).answer).toEqual({ finish: "tool_calls", call: "weather" });
      note("models", "chat", "stream", "tool");
    });

    test("reads why it was refused: 401, 402 with what is left, 429 with when to come back", async () => {
      const { unknown, spent, poor } = world.secrets;
      expect(await run("chat", { secret: unknown })).toMatchObject({
        ...{ code: Code.Unauthenticated, reason: "INVALID_API_KEY" },
        requestId: expect.stringMatching(REQUEST_ID),
      });
      expect(await run("stream", { secret: spent })).toMatchObject({
        ...{ code: Code.ResourceExhausted, reason: "CHILD_KEY_LIMIT_EXCEEDED" },
        facts: { daily_remaining: "0", should_retry: "false" },
      });
      expect(await run("chat", { secret: poor })).toMatchObject({
        ...{ code: Code.FailedPrecondition, reason: "INSUFFICIENT_BALANCE" },
      });
      const { secret } = await world.gateway.createChild({ rateLimitRpm: 1 });
      expect((await run("chat", { secret })).answer).toBeDefined();
      const refused = await run("chat", { secret });
      expect(refused).toMatchObject({
        ...{ code: Code.ResourceExhausted, reason: "RATE_LIMIT_EXCEEDED" },
      });
      expect(refused.retryDelay).toBeGreaterThan(0);
      note(401, 402, 429);
    });

    test("that aborts in mid-stream, or has no time left, pays for what was produced", async () => {
      const { id, secret } = await world.gateway.createChild();
      expect(await run("abort", { secret, model: "demo/slow" })).toMatchObject({
        code: Code.Canceled,
      });
      expect(await run("deadline", { secret, model: "demo/hang" })).toMatchObject({
        code: Code.DeadlineExceeded,
      });
      await vi.waitFor(
        async () => {
          const records = await world.gateway.sql`
            select estimated, output_tokens < 20 as short from usage_record
             where child_key_id = ${id}`;
          expect([...records]).toEqual([{ estimated: true, short: true }]);
        },
        { timeout: 10_000 },
      );
      await world.expectBooks();
      note("abort", "deadline", "books");
    });
  },
);

test("a browser's question is answered for every door, and other callers see nothing of it", async () => {
  const { url } = world.gateway;
  const names =
    "authorization,connect-protocol-version,connect-timeout-ms,idempotency-key,x-grpc-web";
  for (const path of ["/v1/chat/completions", "/api/account", "/keytoll.v1.KeyService/X", "/no"]) {
    const answer = await fetch(url + path, {
      method: "OPTIONS",
      headers: {
        origin: "https://example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": names,
      },
    });
    expect(answer.status).toBe(204);
    const { headers } = answer;
    expect(headers.get("access-control-allow-origin")).toBe("*");
    expect(headers.get("access-control-allow-headers")).toBe(names);
    expect(headers.get("access-control-allow-methods")).toContain("PATCH");
    expect(headers.get("access-control-allow-credentials")).toBeNull();
  }
  const plain = await fetch(`${url}/v1/models`);
  expect([...plain.headers.keys()].filter((name) => name.startsWith("access-"))).toEqual([]);
  const health = await fetch(`${url}/metrics`, { headers: { origin: "https://example.com" } });
  expect(health.headers.get("access-control-allow-origin")).toBeNull();
});
