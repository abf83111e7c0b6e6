import type { ServerResponse } from "node:http";
import { expect } from "vitest";
import type { TestGateway } from "./gateway.js";
import type { Behaviour } from "./upstreams.js";

type Json = Record<string, unknown>;

export const HI = [{ role: "user" as const, content: "hi" }];
export const DONE = "data: [DONE]\n\n";

/** A chunk as upstreams write it. */
export const chunk = (choices: unknown[], more: Json = {}): string => {
  const head = { id: "cmpl-x", object: "chat.completion.chunk", created: 1, model: "secret-name" };
  return `data: ${JSON.stringify({ ...head, choices, ...more })}\n\n`;
};
export const text = (content: string, index = 0): string =>
  chunk([{ index, delta: { content }, finish_reason: null }]);
export const finish = (index = 0, reason = "stop"): string =>
  chunk([{ index, delta: {}, finish_reason: reason }]);
export const usage = (prompt_tokens: number, completion_tokens: number): string =>
  chunk([], { usage: { prompt_tokens, completion_tokens } });

export function begin(response: ServerResponse): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.flushHeaders();
}

/** Writes so many pieces and ends. */
export const plays =
  (...pieces: (string | Buffer)[]): Behaviour =>
  ({ response }) => {
    begin(response);
    for (const piece of pieces) response.write(piece);
    response.end();
  };

/** Goes on writing `piece` for ever, as fast as it is read. Resolves when it is cut. */
export function writesForEver(response: ServerResponse, piece: string): Promise<void> {
  begin(response);
  const write = () => {
    for (let i = 0; i < 10; i++) if (!response.write(piece)) return;
    setImmediate(write);
  };
  response.on("drain", write);
  write();
  return new Promise((resolve) => response.on("close", resolve));
}

interface Chunk extends Json {
  choices: { index: number; delta: Json; finish_reason: string | null }[];
  usage?: Json | null;
  stop_reason?: Json;
  error?: Json;
}

/** One stream as its caller sees it. */
export async function streamed({ url }: { url: string }, secret: string, asked: Json) {
  const answer = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    body: JSON.stringify({
      ...{ model: "demo/fast", messages: HI, stream: true },
      ...{ stream_options: { include_usage: true }, ...asked },
    }),
  });
  const raw = await answer.text();
  const payloads = (raw.startsWith("{") ? "" : raw)
    .split("\n\n")
    .filter((event) => event !== "" && !event.startsWith(":"))
    .map((event) => event.slice("data: ".length));
  const chunks = payloads.filter((it) => it !== "[DONE]").map((it) => JSON.parse(it) as Chunk);
  return {
    status: answer.status,
    raw,
    chunks,
    done: payloads.at(-1) === "[DONE]",
    text: chunks.map((it) => it.choices?.[0]?.delta.content ?? "").join(""),
    finishes: chunks.flatMap((it) => it.choices ?? []).flatMap((it) => it.finish_reason ?? []),
    usage: chunks.at(-1)?.usage,
    stop: chunks.find((it) => it.stop_reason)?.stop_reason,
    error: chunks.find((it) => it.error)?.error,
  };
}

/** What stands in the books for a child key: what is open, and what was paid for. */
export async function booksOf({ sql }: Pick<TestGateway, "sql">, child: string) {
  const open = await sql<{ part: number; amount: bigint; day: string }[]>`
    select part, amount, day::text from open_hold where child_key_id = ${child} order by part`;
  const ended = await sql<{ part: number; amount: bigint; cost: bigint; day: string }[]>`
    select part, amount, cost, day::text from ended_hold where child_key_id = ${child}
     order by authorized_at`;
  const paid = await sql<
    { cost: bigint; input_tokens: bigint; output_tokens: bigint; estimated: boolean }[]
  >`
    select cost, input_tokens, output_tokens, estimated from usage_record
     where child_key_id = ${child} order by usage_seq`;
  return { open: [...open], ended: [...ended], paid: [...paid] };
}

/** Nothing is held for a child key any more, and this is all that it paid for. */
export async function expectPaid(
  gateway: Pick<TestGateway, "sql">,
  child: string,
  ...paid: Json[]
): Promise<void> {
  const books = await booksOf(gateway, child);
  expect(books.open).toEqual([]);
  expect(books.paid).toMatchObject(paid);
  expect(books.paid).toHaveLength(paid.length);
}
