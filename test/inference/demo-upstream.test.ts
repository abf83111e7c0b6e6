import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DEMO_IMAGE_TOKENS } from "../../src/inference/demo-models.js";
import { type DemoUpstream, startDemoUpstream } from "../../src/inference/demo-upstream.js";

let upstream: DemoUpstream;
let client: OpenAI;
beforeAll(async () => {
  upstream = await startDemoUpstream({ port: 0, key: "secret" });
  client = new OpenAI({ apiKey: "secret", baseURL: upstream.url, maxRetries: 0 });
});
afterAll(() => upstream.close());

const HI = [{ role: "user" as const, content: "hi" }];
const parameters = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Tokyo", "Berlin"] },
    days: { type: "integer", minimum: 2 },
    stops: { type: "array", items: { $ref: "#/$defs/stop" } },
  },
  $defs: { stop: { type: "object", properties: { at: { type: "string", format: "date" } } } },
};
const FITTING = { city: "Tokyo", days: 2, stops: [{ at: "2026-01-01" }] };
const tool = (name: string) => ({ type: "function" as const, function: { name, parameters } });

describe("a demo model that is given tools", () => {
  const ask = { model: "demo/fast", messages: HI, tools: [tool("weather"), tool("route")] };

  test("calls the first, the named one, all or none, as it is told", async () => {
    const route = { type: "function" as const, function: { name: "route" } };
    for (const [more, names] of [
      [{}, ["weather"]],
      [{ tool_choice: "required" as const }, ["weather"]],
      [{ tool_choice: route }, ["route"]],
      [{ parallel_tool_calls: true }, ["weather", "route"]],
      [{ tool_choice: "none" as const }, undefined],
    ] as const) {
      const { choices } = await client.chat.completions.create({ ...ask, ...more });
      const [choice] = choices;
      const calls = choice?.message.tool_calls?.map((it) => (it.type === "function" ? it : null));
      expect(calls?.map((it) => it?.function.name)).toEqual(names);
      expect(choice?.finish_reason).toBe(names ? "tool_calls" : "stop");
      for (const call of calls ?? []) {
        expect(JSON.parse(call?.function.arguments ?? "")).toEqual(FITTING);
      }
    }
  });

  test("streams the call in pieces, and answers in text once the tool has", async () => {
    const stream = client.chat.completions.stream({ ...ask, stream: true });
    let pieces = 0;
    for await (const chunk of stream) pieces += chunk.choices[0]?.delta.tool_calls ? 1 : 0;
    const { choices } = await stream.finalChatCompletion();
    const message = choices[0]?.message;
    const [call] = message?.tool_calls ?? [];
    expect(pieces).toBeGreaterThan(5);
    expect(JSON.parse(call?.function.arguments ?? "")).toEqual(FITTING);

    const answered = { role: "tool" as const, tool_call_id: call?.id ?? "", content: "sunny" };
    const messages = [...HI, ...(message ? [message] : []), answered];
    const next = await client.chat.completions.create({ ...ask, messages });
    expect(next.choices[0]?.message.content).toContain("sunny");
  });
});

test("thoughts are written for all to read, or only paid for", async () => {
  for (const [model, visible] of [
    ["demo/thinking", true],
    ["demo/hidden-thinking", false],
  ] as const) {
    const { choices, usage } = await client.chat.completions.create({ model, messages: HI });
    const message = choices[0]?.message as { content: string; reasoning_content?: string };
    expect(message.reasoning_content !== undefined).toBe(visible);
    const thought = usage?.completion_tokens_details?.reasoning_tokens ?? 0;
    expect(thought).toBeGreaterThan(10);
    expect(usage?.completion_tokens).toBe(thought + message.content.split(" ").length);
  }
});

test("answers fit the JSON that is asked for, and tell how sure they are", async () => {
  const { choices } = await client.chat.completions.create({
    model: "demo/fast",
    messages: HI,
    response_format: { type: "json_schema", json_schema: { name: "trip", schema: parameters } },
    logprobs: true,
    top_logprobs: 2,
  });
  expect(JSON.parse(choices[0]?.message.content ?? "")).toEqual(FITTING);
  const tokens = choices[0]?.logprobs?.content ?? [];
  expect(tokens.map(({ token }) => token).join("")).toBe(choices[0]?.message.content);
  expect(tokens[0]?.top_logprobs).toHaveLength(2);
});

test("an image costs its tokens where the model sees, and is refused where it does not", async () => {
  const image = { type: "image_url" as const, image_url: { url: "data:image/png;base64,AAAA" } };
  const messages = [{ role: "user" as const, content: [image, image] }];
  const ask = (model: string) => client.chat.completions.create({ model, messages });
  expect((await ask("demo/vision")).usage?.prompt_tokens).toBe(2 * DEMO_IMAGE_TOKENS);
  await expect(ask("demo/fast")).rejects.toMatchObject({ status: 400, param: "messages" });
});

test("embeddings are vectors of length 1, the same for the same input, in numbers or bytes", async () => {
  const embed = (input: string | string[] | number[], more = {}) =>
    client.embeddings.create({ model: "demo/embedding", input, ...more });
  const { data, usage } = await embed(["hello", "hello", "other"], { encoding_format: "float" });
  const [one, same, other] = data.map(({ embedding }) => embedding);
  expect(one).toEqual(same);
  expect(one).not.toEqual(other);
  expect(Math.hypot(...(one ?? []))).toBeCloseTo(1, 5);
  expect(usage).toEqual({ prompt_tokens: 6, total_tokens: 6 });
  // The client asks for base64 by itself, and reads it
  expect((await embed("hello")).data[0]?.embedding).toEqual(one);
  expect((await embed("hello", { dimensions: 8 })).data[0]?.embedding).toHaveLength(8);
  expect((await embed([1, 2, 3])).usage.prompt_tokens).toBe(3);
});
