import Anthropic from "@anthropic-ai/sdk";
import { describe, expect, test } from "vitest";
import { aWorld, type ForeignClient, tryClient, WEATHER } from "./matrix.js";

const world = aWorld();
const clientOf = (apiKey: string) => new Anthropic({ apiKey, baseURL: world().url });
const messages = [{ role: "user" as const, content: "hi" }];
/** As many as the other clients have where they ask for no length. */
const max_tokens = 4_096;
const tools = [{ name: "weather", input_schema: { ...WEATHER, required: ["city"] } }];

const textOf = ({ content }: Anthropic.Message): string =>
  content.map((block) => (block.type === "text" ? block.text : "")).join("");

const client: ForeignClient = {
  name: "@anthropic-ai/sdk",
  route: "POST /v1/messages",
  waits: true,
  believes: true,
  repeats: [],
  async models(secret) {
    const ids: string[] = [];
    for await (const { id } of clientOf(secret).models.list()) ids.push(id);
    return ids;
  },
  async chat(secret, model, signal) {
    const options = signal ? { signal } : {};
    const ask = { model, max_tokens, messages };
    return textOf(await clientOf(secret).messages.create(ask, options));
  },
  async stream(secret, model, leaveAfter = Number.POSITIVE_INFINITY) {
    const texts: string[] = [];
    const ask = { model, max_tokens, messages, stream: true as const };
    for await (const event of await clientOf(secret).messages.create(ask)) {
      if (event.type !== "content_block_delta" || event.delta.type !== "text_delta") continue;
      texts.push(event.delta.text);
      if (texts.length >= leaveAfter) break;
    }
    return texts;
  },
  async tool(secret, streamed) {
    const api = clientOf(secret).messages;
    const ask = { model: "demo/fast", max_tokens, messages, tools };
    const { role, content, stop_reason } = streamed
      ? await api.stream(ask).finalMessage()
      : await api.create(ask);
    const call = content.find((block) => block.type === "tool_use");
    if (call === undefined || stop_reason !== "tool_use") throw new Error("no call");
    const told = { type: "tool_result" as const, tool_use_id: call.id, content: "sunny" };
    const next = await api.create({
      ...ask,
      messages: [...messages, { role, content }, { role: "user", content: [told] }],
    });
    return { city: (call.input as { city?: unknown }).city, answer: textOf(next) };
  },
  statusOf: (error) => (error instanceof Anthropic.APIError ? error.status : undefined),
};

tryClient(client, world);

describe("@anthropic-ai/sdk as coding agents use it", () => {
  test("carries a session of many turns with large tools, thoughts and caches to its end", async () => {
    const { id, secret } = await world().gateway.createChild();
    const cached = { cache_control: { type: "ephemeral" as const } };
    const many = Array.from({ length: 20 }, (_, i) => ({
      name: `tool_${i}`,
      description: "What it does, in many words. ".repeat(40),
      input_schema: { type: "object" as const, properties: { city: WEATHER.properties.city } },
      ...(i === 19 && cached),
    }));
    const conversation: Anthropic.Beta.BetaMessageParam[] = [
      { role: "user", content: [{ type: "text", text: "fix it", ...cached }] },
    ];
    let paid = 0n;
    for (let turn = 0; turn < 25; turn++) {
      const stream = clientOf(secret).beta.messages.stream({
        model: "demo/thinking",
        max_tokens: 32_000,
        betas: ["context-management-2025-06-27", "interleaved-thinking-2025-05-14"],
        context_management: { edits: [{ type: "clear_tool_uses_20250919" }] },
        metadata: { user_id: "user_1_session_2" },
        thinking: { type: "enabled", budget_tokens: 10_000 },
        tool_choice: { type: "any" },
        system: [
          { type: "text", text: "You are an agent." },
          { type: "text", text: "Rules. ".repeat(500), ...cached },
        ],
        tools: many,
        messages: conversation,
      });
      for await (const event of stream) {
        if (event.type !== "message_delta") continue;
        const { cost_units } = event.usage as unknown as { cost_units: string };
        paid += BigInt(cost_units);
      }
      const { content, stop_reason } = await stream.finalMessage();
      expect([stop_reason, content[0]?.type]).toEqual(["tool_use", "thinking"]);
      const results = content.flatMap((block) =>
        block.type === "tool_use"
          ? {
              type: "tool_result" as const,
              tool_use_id: block.id,
              is_error: turn % 2 === 0,
              content: [{ type: "text" as const, text: `result of turn ${turn}`, ...cached }],
            }
          : [],
      );
      expect(results).toHaveLength(1);
      conversation.push({ role: "assistant", content }, { role: "user", content: results });
    }
    const records = await world().gateway.sql<{ cost: bigint }[]>`
      select cost from usage_record where child_key_id = ${id}`;
    expect(records).toHaveLength(25);
    expect(records.reduce((sum, { cost }) => sum + cost, 0n)).toBe(paid);
  });

  test("counts tokens before it asks, for free", async () => {
    const { secrets, gateway } = world();
    const before = await gateway.sql`select 1 from usage_record`;
    const { input_tokens } = await clientOf(secrets.good).messages.countTokens({
      model: "demo/fast",
      messages,
      tools,
    });
    expect(input_tokens).toBeGreaterThan(10);
    expect(await gateway.sql`select 1 from usage_record`).toHaveLength(before.length);
  });

  test("tries again where what is wrong passes, and has a clear error where it does not", async () => {
    const { secrets, proxy } = world();
    proxy.forget();
    const ask = { model: "demo/error-500", max_tokens, messages };
    const error = await clientOf(secrets.good)
      .messages.create(ask)
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ status: 529, type: "overloaded_error" });
    expect(proxy.statuses("POST /v1/messages")).toEqual([529, 529, 529]);
    const spent = await clientOf(secrets.spent)
      .messages.create({ ...ask, model: "demo/fast" })
      .catch((reason: unknown) => reason);
    expect(spent).toMatchObject({
      status: 402,
      type: "billing_error",
      requestID: expect.stringMatching(/^[0-9a-f-]{36}$/),
      error: { error: { code: "child_key_limit_exceeded", daily_remaining: "0" } },
    });
  });
});
