import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import OpenAI from "openai";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Refusal, refuse } from "../../src/base/errors.js";
import { createLog } from "../../src/base/log.js";
import { sendEvents } from "../../src/edge/event-stream.js";
import { OPENAI_WORDS } from "../../src/edge/openai-stream.js";
import type { EventStream } from "../../src/inference/stream.js";

const HEARTBEAT = ": keep-alive\n\n";
const log = createLog("silent", "test");
let begin: () => Promise<EventStream>;
let refused: unknown;
const server = createServer((_, response: ServerResponse) => {
  const sending = { response, words: OPENAI_WORDS, requestId: "r", log, heartbeatEvery: 20 };
  sendEvents(begin(), sending).catch((error: unknown) => {
    refused = error;
    response.writeHead(error instanceof Refusal ? error.meaning.http : 500).end();
  });
});

beforeEach(async () => {
  refused = undefined;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
});
const url = () => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

/** Something that a test opens when the reader has seen enough. */
function gate() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}

/** Reads until the text so far satisfies. @returns what comes after `then` was done, to the end */
async function reading(until: (text: string) => boolean, then: () => void): Promise<string> {
  const answer = await fetch(url());
  expect(answer.status).toBe(200);
  let text = "";
  let done = false;
  for await (const piece of answer.body ?? []) {
    text += Buffer.from(piece).toString();
    if (done || !until(text)) continue;
    done = true;
    then();
  }
  return text;
}

const chunk = (content: string) =>
  Buffer.from(
    `data: ${JSON.stringify({ id: "x", choices: [{ index: 0, delta: { content } }] })}\n\n`,
  );

test("a caller gets heartbeats while the model thinks, before the first event and between two", async () => {
  const [first, second] = [gate(), gate()];
  begin = async () => {
    await first.opened;
    return (async function* () {
      yield chunk("one");
      await second.opened;
      yield chunk("two");
      yield Buffer.from("data: [DONE]\n\n");
    })();
  };
  const thinks = (text: string) => text.includes(HEARTBEAT.repeat(2));
  const text = await reading(thinks, () => {
    first.open();
    setTimeout(second.open, 70);
  });
  expect(text.split(HEARTBEAT).join("")).toBe(`${chunk("one")}${chunk("two")}data: [DONE]\n\n`);
  expect(text).toMatch(/one.*\n\n(: keep-alive\n\n)+data: .*two/);
});

test("OpenAI's own client reads through heartbeats as if there were none", async () => {
  const held = gate();
  begin = async () => {
    setTimeout(held.open, 50);
    await held.opened;
    return (async function* () {
      yield chunk("one");
    })();
  };
  const client = new OpenAI({ apiKey: "k", baseURL: url(), maxRetries: 0 });
  const texts: unknown[] = [];
  const messages = [{ role: "user" as const, content: "hi" }];
  const stream = await client.chat.completions.create({ model: "m", messages, stream: true });
  for await (const { choices } of stream) texts.push(choices[0]?.delta.content);
  expect(texts).toEqual(["one"]);
});

test("a refusal before any byte is an ordinary one, after a heartbeat it is an error event", async () => {
  begin = async () => {
    throw refuse("insufficient_balance");
  };
  expect((await fetch(url())).status).toBe(402);
  expect(refused).toBeInstanceOf(Refusal);

  const late = gate();
  begin = async () => {
    await late.opened;
    throw refuse("model_unavailable");
  };
  const text = await reading((so) => so.includes(HEARTBEAT), late.open);
  expect(text.split(HEARTBEAT).join("")).toMatch(/^data: \{"error":.*"model_unavailable".*\n\n$/);
});
