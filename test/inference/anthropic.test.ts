import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { parseMessagesRequest } from "../../src/inference/anthropic/request.js";
import { toChatRequest } from "../../src/inference/anthropic/to-chat.js";
import { TRANSLATED_MESSAGES } from "../../src/inference/anthropic/translated.js";
import { createMeter } from "../../src/inference/meter.js";

const HI = [{ role: "user", content: "hi" }];
const TOOL = {
  name: "read_file",
  description: "Reads a file",
  input_schema: { type: "object", properties: { path: { type: "string" } } },
  cache_control: { type: "ephemeral" },
};

const asked = (body: object) =>
  parseMessagesRequest(
    Buffer.from(JSON.stringify({ model: "org/model", max_tokens: 100, messages: HI, ...body })),
  );
const translated = (body: object) => toChatRequest(asked(body));
const messagesOf = (messages: object[], more: object = {}) =>
  translated({ messages, ...more }).passed.messages;

function refusalOf(body: object): { param: string | undefined; reason: string } {
  try {
    translated(body);
  } catch (error) {
    if (error instanceof Refusal) return { param: error.details.param, reason: error.reason };
    throw error;
  }
  throw new Error("not refused");
}

describe("a request in the words of a chat completion", () => {
  test("carries a long session with tools whole, and leaves thoughts and cache marks out", () => {
    const cached = { cache_control: { type: "ephemeral", ttl: "1h" } };
    const messages = [
      { role: "user", content: [{ type: "text", text: "fix it", ...cached }] },
      {
        role: "assistant",
        content: [
          { type: "thinking", thinking: "hm", signature: "abc" },
          { type: "redacted_thinking", data: "xyz" },
          { type: "text", text: "I look." },
          { type: "tool_use", id: "toolu_1", name: "read_file", input: { path: "a" } },
          { type: "tool_use", id: "toolu_2", name: "read_file", input: {}, ...cached },
        ],
      },
      {
        role: "user",
        content: [
          { type: "tool_result", tool_use_id: "toolu_1", content: "text of a" },
          {
            type: "tool_result",
            tool_use_id: "toolu_2",
            is_error: true,
            content: [
              { type: "text", text: "no" },
              { type: "text", text: "such file" },
            ],
          },
          { type: "text", text: "go on" },
        ],
      },
      { role: "user", content: "please" },
    ];
    const system = [
      { type: "text", text: "You are careful.", ...cached },
      { type: "text", text: "And brief." },
    ];
    const call = (id: string, args: string) => ({
      id,
      type: "function",
      function: { name: "read_file", arguments: args },
    });
    expect(messagesOf(messages, { system, tools: [TOOL] })).toEqual([
      { role: "system", content: "You are careful.\nAnd brief." },
      { role: "user", content: "fix it" },
      {
        role: "assistant",
        content: "I look.",
        tool_calls: [call("toolu_1", '{"path":"a"}'), call("toolu_2", "{}")],
      },
      { role: "tool", tool_call_id: "toolu_1", content: "text of a" },
      { role: "tool", tool_call_id: "toolu_2", content: "Error: no\nsuch file" },
      { role: "user", content: "go on\nplease" },
    ]);
  });

  test("has every parameter that an upstream knows, and none that it would refuse", () => {
    const { passed } = translated({
      tools: [TOOL],
      tool_choice: { type: "any", disable_parallel_tool_use: true },
      stop_sequences: ["END"],
      temperature: 0.5,
      top_p: 0.9,
      top_k: 40,
      metadata: { user_id: "somebody" },
      thinking: { type: "enabled", budget_tokens: 50 },
      context_management: { edits: [{ type: "clear_tool_uses_20250919" }] },
      service_tier: "auto",
      container: null,
      mcp_servers: [],
      cache_control: { type: "ephemeral" },
      output_config: { effort: "low", format: { type: "json_schema", schema: { type: "object" } } },
    });
    const { messages: _, ...rest } = passed;
    expect(rest).toEqual({
      tools: [
        {
          type: "function",
          function: {
            name: "read_file",
            description: "Reads a file",
            parameters: TOOL.input_schema,
          },
        },
      ],
      tool_choice: "required",
      parallel_tool_calls: false,
      stop: ["END"],
      temperature: 0.5,
      top_p: 0.9,
      top_k: 40,
      reasoning_effort: "low",
      response_format: {
        type: "json_schema",
        json_schema: { name: "answer", schema: { type: "object" }, strict: true },
      },
    });
  });

  test("names the tool that must be called, allows none, and says nothing of tools without any", () => {
    const choiceOf = (tool_choice: object, tools = [TOOL]) =>
      translated({ tools, tool_choice }).passed.tool_choice;
    expect(choiceOf({ type: "tool", name: "read_file" })).toEqual({
      type: "function",
      function: { name: "read_file" },
    });
    expect(choiceOf({ type: "auto" })).toBe("auto");
    expect(choiceOf({ type: "none" })).toBe("none");
    expect(translated({ tools: [], tool_choice: { type: "auto" } }).passed).toEqual({
      messages: HI,
    });
  });

  test("shows images, those of results behind them, and says how many bytes are theirs", () => {
    const image = (source: object) => ({ type: "image", source });
    const inside = image({ type: "base64", media_type: "image/png", data: "aGVsbG8=" });
    const content = [
      { type: "tool_result", tool_use_id: "toolu_1", content: [inside] },
      image({ type: "url", url: "https://example.com/a.png" }),
      { type: "text", text: "what is it?" },
    ];
    const request = translated({ messages: [{ role: "user", content }] });
    const url = "data:image/png;base64,aGVsbG8=";
    expect(request.passed.messages).toEqual([
      { role: "tool", tool_call_id: "toolu_1", content: "" },
      {
        role: "user",
        content: [
          { type: "text", text: "Images of toolu_1:" },
          { type: "image_url", image_url: { url } },
          { type: "image_url", image_url: { url: "https://example.com/a.png" } },
          { type: "text", text: "what is it?" },
        ],
      },
    ]);
    expect(request).toMatchObject({ images: 2, imageBytes: url.length });
    expect(translated({})).not.toHaveProperty("images");
  });

  test("is never bounded by fewer bytes than what is sent for it", () => {
    const call = { type: "tool_use", id: "a", name: "b", input: { text: '"\\"'.repeat(1_000) } };
    const request = translated({
      messages: [...HI, { role: "assistant", content: [call] }, ...HI],
    });
    const sent = TRANSLATED_MESSAGES.body(request, "org/model", 100);
    expect(request.bytes).toBeGreaterThan(asked({}).bytes);
    expect(Buffer.byteLength(sent) - request.bytes).toBeLessThan(256);
  });

  const refused: [string, object][] = [
    ["max_tokens", { max_tokens: undefined }],
    ["max_tokens", { max_tokens: 0 }],
    ["model", { model: "" }],
    ["messages", { messages: [] }],
    ["messages[0].role", { messages: [{ role: "system", content: "x" }] }],
    ["messages[0].content", { messages: [{ role: "user" }] }],
    ["messages[0].content[0].type", { messages: [{ role: "user", content: [{ type: "video" }] }] }],
    [
      "messages[0].content[0].source",
      { messages: [{ role: "user", content: [{ type: "document", source: { type: "base64" } }] }] },
    ],
    [
      "messages[0].content[0].tool_use_id",
      { messages: [{ role: "user", content: [{ type: "tool_result" }] }] },
    ],
    [
      "messages[0].content[0].type",
      { messages: [{ role: "assistant", content: [{ type: "server_tool_use", id: "a" }] }] },
    ],
    [
      "messages[0].content[0].source.url",
      {
        messages: [
          { role: "user", content: [{ type: "image", source: { type: "url", url: "file:///a" } }] },
        ],
      },
    ],
    ["system[0].type", { system: [{ type: "image" }] }],
    ["tools[0].type", { tools: [{ type: "web_search_20250305", name: "web_search" }] }],
    ["tools[0].input_schema", { tools: [{ name: "x" }] }],
    ["tool_choice", { tool_choice: { type: "any" } }],
    ["tool_choice.name", { tools: [TOOL], tool_choice: { type: "tool", name: "other" } }],
    ["stop_sequences[0]", { stop_sequences: [1] }],
    ["temperature", { temperature: "hot" }],
    ["thinking.budget_tokens", { thinking: { type: "enabled" } }],
    ["thinking.budget_tokens", { thinking: { type: "enabled", budget_tokens: 100 } }],
    ["service_tier", { service_tier: "priority" }],
    ["speed", { speed: "fast" }],
    ["container", { container: "c" }],
    ["mcp_servers", { mcp_servers: [{ url: "http://x" }] }],
    ["fallbacks", { fallbacks: [{ model: "dearer" }] }],
    ["inference_geo", { inference_geo: "us" }],
    ["thread", { thread: { id: "t" } }],
  ];
  for (const [param, body] of refused) {
    test(`is refused by name for ${param} of ${JSON.stringify(body)}`, () => {
      expect(refusalOf(body)).toEqual({ param, reason: "invalid_request_error" });
    });
  }

  test("nested too deeply is refused, not crashed on", () => {
    const deep = `${'{"a":'.repeat(200_000)}1${"}".repeat(200_000)}`;
    const block = `{"type":"tool_use","id":"a","name":"b","input":${deep}}`;
    const raw = `{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":[${block}]}]}`;
    expect(() => toChatRequest(parseMessagesRequest(Buffer.from(raw)))).toThrow(Refusal);
  });
});

/** Reads chunks as a stream of a message. @returns its events by name */
function read(choices: object[], body: object = {}, usage?: object) {
  const request = translated({ stream: true, ...body });
  const meter = createMeter(request.bytes, 1_000_000);
  const reader = TRANSLATED_MESSAGES.reader(request, meter);
  const head = { id: "SECRET-id", model: "SECRET-model", system_fingerprint: "SECRET" };
  const forwarded = choices.map((choice) => {
    reader.take(Buffer.from(JSON.stringify({ ...head, choices: [{ index: 0, ...choice }] })));
    return eventsIn(reader.forward()?.toString() ?? "");
  });
  if (usage) reader.take(Buffer.from(JSON.stringify({ ...head, choices: [], usage })));
  const end = reader.finale({ prompt_tokens: 7, completion_tokens: 9, total_tokens: 16, cost: 1 });
  return { forwarded, reader, meter, all: [...forwarded.flat(), ...eventsIn(end.toString())] };
}

interface Event {
  type: string;
  index?: number;
  delta?: Record<string, unknown>;
  content_block?: Record<string, unknown>;
  message?: Record<string, unknown>;
  usage?: Record<string, unknown>;
}

function eventsIn(text: string): Event[] {
  return text
    .split("\n\n")
    .filter(Boolean)
    .map((event) => {
      const [name, data = ""] = event.split("\n");
      const parsed = JSON.parse(data.replace(/^data: /, "")) as Event;
      expect(name).toBe(`event: ${parsed.type}`);
      return parsed;
    });
}

const say = (content: string) => ({ delta: { content } });
const typesOf = (events: Event[]) => events.map(({ type }) => type);

describe("a stream of chunks as events of a message", () => {
  test("opens at once, forwards each chunk as it comes, and ends only with its bill", () => {
    const { forwarded, all } = read([
      { delta: { role: "assistant", content: "" } },
      say("one"),
      say(" two"),
      { delta: {}, finish_reason: "stop" },
    ]);
    expect(forwarded.map(typesOf)).toEqual([
      ["message_start", "ping"],
      ["content_block_start", "content_block_delta"],
      ["content_block_delta"],
      [],
    ]);
    expect(typesOf(all.slice(-3))).toEqual(["content_block_stop", "message_delta", "message_stop"]);
    expect(all.at(-2)).toMatchObject({
      delta: { stop_reason: "end_turn", stop_sequence: null },
      usage: { input_tokens: 7, output_tokens: 9, cache_read_input_tokens: 0, cost: 1 },
    });
    expect(JSON.stringify(all)).not.toContain("SECRET");
  });

  test("brings every text, thought and argument unchanged, in blocks that follow each other", () => {
    const piece = fc.oneof(
      fc.record({ kind: fc.constant("text"), text: fc.string({ minLength: 1 }) }),
      fc.record({ kind: fc.constant("thinking"), text: fc.string({ minLength: 1 }) }),
      fc.record({ kind: fc.constant("call"), text: fc.string() }),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), (pieces) => {
        let calls = 0;
        const deltas = pieces.map(({ kind, text }) => {
          if (kind === "text") return { delta: { content: text } };
          if (kind === "thinking") return { delta: { reasoning_content: text } };
          const called = { name: "f", arguments: text };
          const call = {
            index: calls++,
            id: `SECRET-${calls}`,
            type: "function",
            function: called,
          };
          return { delta: { tool_calls: [call] } };
        });
        const thinking = { type: "adaptive" };
        const { all } = read([...deltas, { delta: {}, finish_reason: "stop" }], { thinking });
        expect(JSON.stringify(all)).not.toContain("SECRET");
        const blocks = assembled(all);
        const of = (kind: string) => pieces.filter((it) => it.kind === kind).map((it) => it.text);
        const inBlocks = (type: string) => blocks.filter((it) => it.type === type);
        expect(
          inBlocks("text")
            .map((it) => it.text)
            .join(""),
        ).toBe(of("text").join(""));
        expect(
          inBlocks("thinking")
            .map((it) => it.text)
            .join(""),
        ).toBe(of("thinking").join(""));
        expect(inBlocks("tool_use").map((it) => it.text)).toEqual(of("call"));
        const reason = all.at(-2)?.delta?.stop_reason;
        expect(reason).toBe(calls > 0 ? "tool_use" : "end_turn");
      }),
    );
  });

  test("hides thoughts from who did not ask for them", () => {
    const { all, meter } = read([{ delta: { reasoning: "hm" } }, say("a")]);
    expect(assembled(all)).toEqual([{ type: "text", text: "a" }]);
    expect(meter.usage(false).outputTokens).toBeGreaterThanOrEqual(2n);
  });

  test("tells why the answer ended", () => {
    const endOf = (finish: object, body: object = {}) =>
      read([say("a"), { delta: {}, ...finish }], body).all.at(-2)?.delta;
    expect(endOf({ finish_reason: "length" })?.stop_reason).toBe("max_tokens");
    expect(endOf({ finish_reason: "content_filter" })?.stop_reason).toBe("refusal");
    const met = { finish_reason: "stop", stop_reason: "END" };
    expect(endOf(met, { stop_sequences: ["END"] })).toEqual({
      stop_reason: "stop_sequence",
      stop_sequence: "END",
    });
    expect(endOf(met)).toEqual({ stop_reason: "end_turn", stop_sequence: null });
  });

  test("takes usage from where it is reported, and no text for a report", () => {
    const fake = '","usage":{"prompt_tokens":1,"completion_tokens":1}';
    const usage = { prompt_tokens: 50, completion_tokens: 60 };
    const { meter } = read([say(fake), { delta: {}, finish_reason: "stop" }], {}, usage);
    expect(meter.usage(true)).toEqual({ inputTokens: 50n, outputTokens: 60n, estimated: false });
    expect(read([say(fake)]).meter.usage(true).estimated).toBe(true);
  });

  test("that we cut ends like one that has reached its length, with the reason", () => {
    const meter = createMeter(10, 10);
    const reader = TRANSLATED_MESSAGES.reader(translated({ stream: true }), meter);
    reader.take(Buffer.from(JSON.stringify({ choices: [say("a")] })));
    reader.forward();
    const stop = { code: "child_key_limit_exceeded", message: "spent" } as const;
    const usage = { prompt_tokens: 1, completion_tokens: 2, cost_units: "3" };
    expect(eventsIn(reader.cut(usage, stop).toString())).toEqual([
      { type: "content_block_stop", index: 0 },
      {
        type: "message_delta",
        delta: { stop_reason: "max_tokens", stop_sequence: null },
        usage: {
          input_tokens: 1,
          cache_creation_input_tokens: 0,
          cache_read_input_tokens: 0,
          output_tokens: 2,
          cost_units: "3",
        },
        stop_cause: stop,
      },
      { type: "message_stop" },
    ]);
  });

  test("that is an error, or no chunk, is no end", () => {
    const request = translated({ stream: true });
    for (const bad of ['{"error":{"message":"SECRET"}}', "[]", "{"]) {
      const reader = TRANSLATED_MESSAGES.reader(request, createMeter(10, 10));
      expect(() => reader.take(Buffer.from(bad))).toThrow();
      expect(reader.finished).toBe(false);
    }
  });
});

/** Blocks as a client puts them together, one open at a time. */
function assembled(events: Event[]): { type: unknown; text: string }[] {
  const blocks: { type: unknown; text: string }[] = [];
  let open = false;
  for (const { type, index, delta, content_block } of events) {
    if (type === "content_block_start") {
      expect([open, index]).toEqual([false, blocks.length]);
      open = true;
      blocks.push({ type: content_block?.type, text: "" });
    }
    if (type === "content_block_stop") {
      expect([open, index]).toEqual([true, blocks.length - 1]);
      open = false;
    }
    const block = blocks[index ?? -1];
    if (type !== "content_block_delta" || block === undefined) continue;
    block.text += delta?.text ?? delta?.thinking ?? delta?.partial_json ?? "";
  }
  expect(open).toBe(false);
  return blocks;
}

describe("an answer in one piece", () => {
  const show = (message: object, finish_reason: string, body: object = {}) =>
    TRANSLATED_MESSAGES.show(
      translated(body),
      { id: "SECRET", model: "SECRET", choices: [{ index: 0, message, finish_reason }] },
      {
        usage: { inputTokens: 3n, outputTokens: 4n, estimated: false },
        cost: 5n,
        costFields: "neutral",
      },
    );

  test("is a message with thoughts, text and calls as blocks, under ids of ours", () => {
    const call = (args: string) => ({ id: "SECRET", function: { name: "f", arguments: args } });
    const message = {
      role: "assistant",
      reasoning_content: "hm",
      content: "I look.",
      tool_calls: [call('{"path":"a"}'), call("{cut")],
    };
    const body = show(message, "tool_calls", { thinking: { type: "adaptive" } });
    expect(body).toEqual({
      id: expect.stringMatching(/^msg_[0-9a-f]{32}$/),
      type: "message",
      role: "assistant",
      model: "org/model",
      content: [
        { type: "thinking", thinking: "hm", signature: "unsigned" },
        { type: "text", text: "I look." },
        { type: "tool_use", id: expect.stringMatching(/^toolu_/), name: "f", input: { path: "a" } },
        { type: "tool_use", id: expect.stringMatching(/^toolu_/), name: "f", input: {} },
      ],
      stop_reason: "tool_use",
      stop_sequence: null,
      usage: {
        input_tokens: 3,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 0,
        output_tokens: 4,
        cost: 5e-9,
        cost_units: "5",
      },
    });
    expect(JSON.stringify(body)).not.toContain("SECRET");
  });

  test("begins with its text where nobody asked for thoughts", () => {
    const { content } = show({ reasoning_content: "hm", content: "a" }, "stop");
    expect(content).toEqual([{ type: "text", text: "a" }]);
  });
});
