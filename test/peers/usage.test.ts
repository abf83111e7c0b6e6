import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { expectBooksAreRight } from "../support/books.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";

let behave: (request: IncomingMessage, response: ServerResponse) => void;
const upstream = createServer((request, response) => behave(request, response));
let gateway: TestGateway;

beforeAll(async () => {
  upstream.listen(0, "127.0.0.1");
  await once(upstream, "listening");
  const { port } = upstream.address() as AddressInfo;
  gateway = await startTestGateway({ upstreamUrl: `http://127.0.0.1:${port}` });
});
afterAll(async () => {
  upstream.closeAllConnections();
  upstream.close();
  await gateway?.close();
});

const chat = (secret: string, fields: object, signal?: AbortSignal) =>
  fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    body: JSON.stringify({
      ...{ model: "demo/fast", messages: [{ role: "user", content: "hi" }], ...fields },
    }),
    ...(signal && { signal }),
  });

const event = (choices: unknown[], usage?: object): string =>
  `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", created: 1, model: "m", choices, ...(usage && { usage }) })}\n\n`;
const text = (content: string, finish_reason: string | null = null): string =>
  event([{ index: 0, delta: { content }, finish_reason }]);

interface UsageRow {
  cost: bigint;
  input_tokens: bigint;
  output_tokens: bigint;
  estimated: boolean;
}

/** The child's usage records, once nothing of it is held any more. */
async function usageOf(child: string): Promise<UsageRow[]> {
  await vi.waitFor(async () => {
    const open = await gateway.sql`select from open_hold where child_key_id = ${child}`;
    expect(open).toHaveLength(0);
  });
  return [
    ...(await gateway.sql<UsageRow[]>`
      select cost, input_tokens, output_tokens, estimated from usage_record
       where child_key_id = ${child} order by usage_seq`),
  ];
}

const streamOf = (events: string[]) => (_: IncomingMessage, response: ServerResponse) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.end(`${events.join("")}data: [DONE]\n\n`);
};

// LiteLLM #37992: a reported zero was taken for no report, and billed by an estimate
test.each([false, true])(
  "a usage of zero that the upstream reports costs zero and is replaced by no estimate (stream: %s)",
  async (stream) => {
    const usage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
    const message = { role: "assistant", content: "for free" };
    const whole = { id: "x", choices: [{ index: 0, message, finish_reason: "stop" }], usage };
    behave = stream
      ? streamOf([text("for free"), text("", "stop"), event([], usage)])
      : (_, response) => void response.end(JSON.stringify(whole));
    const { id, secret } = await gateway.createChild();
    const answer = await chat(secret, {
      stream,
      ...(stream && { stream_options: { include_usage: true } }),
    });
    const body = await answer.text();
    expect(body).toContain('"cost_units":"0"');
    expect(body).not.toContain("estimated");
    const free = { cost: 0n, input_tokens: 0n, output_tokens: 0n, estimated: false };
    expect(await usageOf(id)).toEqual([free]);
    const [row] = await gateway.sql`select used_total, held from child_key where id = ${id}`;
    expect(row).toEqual({ used_total: 0n, held: 0n });
  },
);

// new-api #6911: what a stream cost above its pre-charge went into no book at all
test("a stream that costs more than was held is paid up to the hold, and the rest is the house's loss on record", async () => {
  const usage = { prompt_tokens: 1_000_000, completion_tokens: 1_000_000 };
  behave = streamOf([text("a"), text("", "stop"), event([], usage)]);
  const { id, secret } = await gateway.createChild();
  await (await chat(secret, { stream: true, max_tokens: 1 })).text();
  const [record] = await usageOf(id);
  const [ended] = await gateway.sql<{ id: string; amount: bigint }[]>`
    select id, amount from ended_hold where child_key_id = ${id}`;
  expect(record?.cost).toBe(ended?.amount);
  const losses = await gateway.sql<{ amount: bigint }[]>`
    select amount from transfer where kind = 'loss' and reference like ${`%${ended?.id}`}`;
  expect(losses.map(({ amount }) => amount)).toEqual([
    priceOf(DEMO_PRICE, 1_000_000n, 1_000_000n) - (record?.cost ?? 0n),
  ]);
});

// vercel/ai #8325: 13,000 tokens were written and billed after the caller had aborted
test("after a caller's abort the upstream is cut at once, and nothing that it would still have written is charged", async () => {
  const tokens = 13_000;
  let written = 0;
  const cut = new Promise<void>((resolve) => {
    behave = (_, response) => {
      response.on("close", resolve);
      response.writeHead(200, { "content-type": "text/event-stream" });
      const write = () => {
        if (response.destroyed || written === tokens) return;
        response.write(text("word "));
        written += 1;
        setTimeout(write, 1);
      };
      write();
    };
  });
  const { id, secret } = await gateway.createChild();
  const abort = new AbortController();
  const answer = await chat(secret, { stream: true, max_tokens: 8_000 }, abort.signal);
  expect(answer.status).toBe(200);
  await answer.body?.getReader().read();
  abort.abort();
  await cut;
  expect(written).toBeLessThan(tokens / 10);
  const [record, ...others] = await usageOf(id);
  expect(others).toEqual([]);
  expect(Number(record?.output_tokens)).toBeGreaterThan(0);
  expect(Number(record?.output_tokens)).toBeLessThanOrEqual(written);
});

test("afterwards the books are right", () => expectBooksAreRight(gateway.sql));
