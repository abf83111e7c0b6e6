import { once } from "node:events";
import * as grpc from "@grpc/grpc-js";
import type { AnyDefinition, MessageTypeDefinition } from "@grpc/proto-loader";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { reflect } from "../support/reflected.js";
import { type ClientWorld, printRow, startClientWorld } from "./world.js";

type Fields = Record<string, unknown>;
type Reflected = Awaited<ReturnType<typeof reflect>>;

interface Chunk {
  choices: { delta: { content: string } | null }[];
  usage: { cost_units: string } | null;
}

let world: ClientWorld;
let reflected: Reflected;
let inference: grpc.Client;
let holds: grpc.Client;
const cells: Record<string, string> = {};
const note = (...behaviours: (string | number)[]) => {
  for (const it of behaviours) cells[it] = "ok";
};

/** A policy that tries refusals for want of money or turns again, and models that are not there. */
const RETRY = {
  ...{ maxAttempts: 5, initialBackoff: "0.05s", maxBackoff: "0.1s", backoffMultiplier: 1 },
  retryableStatusCodes: ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
};

function clientOf(service: string, options: grpc.ClientOptions = {}): grpc.Client {
  const { keytoll } = reflected.packages as unknown as {
    keytoll: { v1: Record<string, grpc.ServiceClientConstructor> };
  };
  const Client = keytoll.v1[service];
  if (!Client) throw new Error(`the server tells of no ${service}`);
  return new Client(world.gateway.grpc, grpc.credentials.createInsecure(), options);
}

beforeAll(async () => {
  world = await startClientWorld();
  reflected = await reflect(world.gateway.grpc);
  inference = clientOf("InferenceService");
  holds = clientOf("HoldService");
});
afterAll(async () => {
  printRow("@grpc/grpc-js from reflection", cells);
  inference?.close();
  holds?.close();
  await world?.close();
});

function as(secret: string): grpc.Metadata {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${secret}`);
  return metadata;
}

function call(client: grpc.Client, method: string, request: Fields, secret: string) {
  const start = (client as unknown as Record<string, (...all: unknown[]) => unknown>)[method];
  return new Promise<Fields>((resolve, reject) => {
    const done = (error: Error | null, answer: Fields) => (error ? reject(error) : resolve(answer));
    start?.call(client, request, as(secret), done);
  });
}

const messages = [{ role: "user", content: "hello" }];

function stream(model: string, secret: string): grpc.ClientReadableStream<Chunk> {
  const start = (inference as unknown as Record<string, (...all: unknown[]) => unknown>)
    .StreamChatCompletion;
  const request = { completion: { model, messages } };
  return start?.call(inference, request, as(secret)) as grpc.ClientReadableStream<Chunk>;
}

/** A message of a type that the server told of. */
function decode(type: string, bytes: Buffer): Fields {
  const definition = reflected.definition[type] as AnyDefinition;
  return (definition as MessageTypeDefinition<object, object>).deserialize(bytes) as Fields;
}

async function refusalOf(running: Promise<unknown>) {
  const error = (await running.then(
    () => Promise.reject(new Error("was not refused")),
    (refused: unknown) => refused,
  )) as grpc.ServiceError;
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const { details } = decode("google.rpc.Status", bytes as Buffer) as {
    details: { type_url: string; value: Buffer }[];
  };
  const [info = {}, retry] = details.map(({ type_url, value }) =>
    decode(type_url.replace("type.googleapis.com/", ""), value),
  );
  // Of a map that was told by reflection this library makes a list
  const metadata = (info.metadata ?? []) as { key: string; value: string }[];
  const facts = Object.fromEntries(metadata.map(({ key, value }) => [key, value]));
  return { code: error.code, reason: info.reason, facts, retry: retry?.retry_delay };
}

test("the server tells a stranger all its services", () => {
  const ours = reflected.names.filter((name) => name.startsWith("keytoll.v1."));
  expect(ours).toEqual(
    expect.arrayContaining(
      ["Inference", "Hold", "Key", "Usage", "Webhook", "Admin", "Account", "Auth"].map(
        (name) => `keytoll.v1.${name}Service`,
      ),
    ),
  );
});

test("lists models, is answered, streams, has a tool called and a text embedded", async () => {
  const { good } = world.secrets;
  const { data } = await call(inference, "ListModels", {}, good);
  expect((data as { id: string }[]).map(({ id }) => id)).toContain("demo/fast");
  const asked = { model: "demo/fast", messages };
  const answer = await call(inference, "CreateChatCompletion", asked, good);
  expect(answer).toMatchObject({
    choices: [{ message: { content: expect.stringContaining("hello") } }],
  });
  let [text, cost] = ["", ""];
  for await (const { choices, usage } of stream("demo/fast", good)) {
    text += choices[0]?.delta?.content ?? "";
    cost = usage?.cost_units ?? cost;
  }
  expect(text).toContain("hello");
  expect(BigInt(cost)).toBeGreaterThan(0n);
  const tools = [{ type: "function", function: { name: "weather" } }];
  const withTool = { ...asked, tools, tool_choice: { string_value: "required" } };
  expect(await call(inference, "CreateChatCompletion", withTool, good)).toMatchObject({
    choices: [
      { finish_reason: "tool_calls", message: { tool_calls: [{ function: { name: "weather" } }] } },
    ],
  });
  const texts = { model: "demo/embedding", input: ["hello", "world"] };
  const embedded = await call(inference, "CreateEmbedding", texts, good);
  const vectors = embedded.data as { index: number; embedding: number[] }[];
  expect(vectors.map(({ index }) => index)).toEqual([0, 1]);
  expect(vectors[0]?.embedding.length).toBeGreaterThan(3);
  expect(vectors[0]?.embedding).not.toEqual(vectors[1]?.embedding);
  note("models", "chat", "stream", "tool", "embedding");
});

test("what JSON has beside text goes through: images as parts, logprobs in the answer", async () => {
  const { good } = world.secrets;
  const text = (value: string) => ({ string_value: value });
  const struct = (fields: Fields) => ({
    fields: Object.entries(fields).map(([key, value]) => ({ key, value })),
  });
  const said = struct({ type: text("text"), text: text("what is this") });
  const url = text("https://example.com/cat.png");
  const image = struct({ type: text("image_url"), image_url: { struct_value: struct({ url }) } });
  const chat = (...message: Fields[]) => {
    const asked = { model: "demo/fast", messages: message.map((it) => ({ role: "user", ...it })) };
    return call(inference, "CreateChatCompletion", asked, good);
  };
  expect(await chat({ parts: [said] })).toMatchObject({
    choices: [{ message: { content: expect.stringContaining("what is this") } }],
  });
  expect(await refusalOf(chat({ parts: [said, image] }))).toMatchObject({
    ...{ reason: "INVALID_REQUEST_ERROR", facts: { param: "messages" } },
  });
  expect(await refusalOf(chat({ content: "x", parts: [said] }))).toMatchObject({
    facts: { param: "messages[0].parts" },
  });
  const extra = struct({ logprobs: { bool_value: true } });
  const asked = { model: "demo/fast", messages, extra };
  const { choices } = await call(inference, "CreateChatCompletion", asked, good);
  const [first] = choices as { logprobs: { fields: { key: string; value: Fields }[] } }[];
  const { key, value } = first?.logprobs.fields[0] ?? {};
  expect([key, value?.kind]).toEqual(["content", "list_value"]);
});

test("reads why it was refused: 401, 402 with what is left, 429 with when to come back", async () => {
  const { unknown, spent, poor, hurried } = world.secrets;
  const asked = { model: "demo/fast", messages };
  const refused = (secret: string) =>
    refusalOf(call(inference, "CreateChatCompletion", asked, secret));
  expect(await refused(unknown)).toMatchObject({
    ...{ code: grpc.status.UNAUTHENTICATED, reason: "INVALID_API_KEY" },
  });
  expect(await refused(spent)).toMatchObject({
    ...{ code: grpc.status.RESOURCE_EXHAUSTED, reason: "CHILD_KEY_LIMIT_EXCEEDED" },
    facts: { daily_remaining: "0", resets_at: expect.stringContaining("T00:00:00") },
  });
  expect(await refused(poor)).toMatchObject({
    ...{ code: grpc.status.FAILED_PRECONDITION, reason: "INSUFFICIENT_BALANCE" },
  });
  await call(inference, "CreateChatCompletion", asked, hurried);
  const late = await refused(hurried);
  expect(late).toMatchObject({
    ...{ code: grpc.status.RESOURCE_EXHAUSTED, reason: "RATE_LIMIT_EXCEEDED" },
    retry: { seconds: expect.stringMatching(/^[1-9]\d?$/) },
  });
  note(401, 402, 429);
});

const refusals = async (): Promise<number> => {
  const text = await (await fetch(`${world.gateway.url}/metrics`)).text();
  const lines = text.match(/^keytoll_hold_refusals_total\{[^}]*child_key_limit[^}]*\} \d+/gm) ?? [];
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
};

test("with a retry policy it hammers no definite refusal, and comes through a passing one", async () => {
  const retrying = clientOf("InferenceService", {
    "grpc.service_config": JSON.stringify({ methodConfig: [{ name: [{}], retryPolicy: RETRY }] }),
  });
  const asked = { model: "demo/fast", messages, max_tokens: 5 };
  const chat = (secret: string) => call(retrying, "CreateChatCompletion", asked, secret);
  let before = await refusals();
  expect((await refusalOf(chat(world.secrets.spent))).code).toBe(grpc.status.RESOURCE_EXHAUSTED);
  expect(await refusals()).toBe(before + 1);

  const limit = 50_000n;
  const { id, secret } = await world.gateway.createChild({ limitDaily: limit });
  const { managementSecret } = world.gateway;
  const hold = { hold_id: newId(), child_key_id: id, amount_ngonka: String(limit) };
  await call(holds, "Authorize", hold, managementSecret);
  before = await refusals();
  const running = chat(secret);
  await vi.waitFor(async () => expect(await refusals()).toBe(before + 1));
  await call(holds, "Void", { hold_id: hold.hold_id }, managementSecret);
  expect(await running).toMatchObject({ choices: [{ finish_reason: "length" }] });
  expect(await refusals()).toBe(before + 1);
  retrying.close();
  note("retry");
});

test("that aborts in mid-stream pays for what was produced, and afterwards the books are right", async () => {
  const { id, secret } = await world.gateway.createChild();
  const chunks = stream("demo/slow", secret);
  const cancelled = once(chunks, "error");
  await once(chunks, "data");
  chunks.cancel();
  expect(await cancelled).toMatchObject([{ code: grpc.status.CANCELLED }]);
  await vi.waitFor(async () => {
    const records = await world.gateway.sql`
      select estimated, output_tokens < 20 as short from usage_record where child_key_id = ${id}`;
    expect([...records]).toEqual([{ estimated: true, short: true }]);
  });
  await world.expectBooks();
  note("abort", "books");
});
