import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { startDemoUpstream } from "../../src/inference/demo-upstream.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import {
  type AnthropicUpstream,
  MARK,
  startAnthropicUpstream,
} from "../support/anthropic-upstream.js";
import {
  DEMO_PRICE,
  startTestGateway,
  type TestGateway,
  UPSTREAM_KEY,
} from "../support/gateway.js";

const MODELS = ["plain", "cut", "late", "no-usage", "slow", "overloaded"];
const HI = [{ role: "user" as const, content: "hi" }];
const TOOLS = [{ name: "weather", input_schema: { type: "object" as const } }];
/** 5 tokens of input, 7 written to a cache, 11 read from there, and 9 of output. */
const COST = priceOf(DEMO_PRICE, 23n, 9n);

let upstream: AnthropicUpstream;
let other: Awaited<ReturnType<typeof startDemoUpstream>>;
let gateway: TestGateway;
beforeAll(async () => {
  upstream = await startAnthropicUpstream(UPSTREAM_KEY);
  other = await startDemoUpstream({ port: 0, key: UPSTREAM_KEY });
  const models = MODELS.map((id) => ({ id, upstream_id: id }));
  gateway = await startTestGateway({
    upstreams: [
      { name: "native", url: upstream.url, dialect: "anthropic", models },
      { name: "other", url: other.url },
    ],
  });
  for (const model of MODELS) {
    const terms = { ...DEMO_PRICE, contextTokens: null, maxOutputTokens: 8_192, enabled: true };
    await setModelPrice(gateway.sql, { model, ...terms });
  }
});
afterAll(async () => {
  await gateway.close();
  await Promise.all([upstream.close(), other.close()]);
});

const clientOf = (secret: string) =>
  new Anthropic({ apiKey: secret, baseURL: gateway.url, maxRetries: 0 });

async function recordsOf(child: string) {
  const [open] = await gateway.sql<{ n: number }[]>`
    select count(*)::int n from open_hold where child_key_id = ${child}`;
  const usage = await gateway.sql<
    { cost: bigint; input_tokens: bigint; output_tokens: bigint; estimated: boolean }[]
  >`
    select cost, input_tokens, output_tokens, estimated from usage_record
     where child_key_id = ${child} order by usage_seq`;
  return { open: open?.n ?? 0, usage: [...usage] };
}

const PAID = { cost: COST, input_tokens: 23n, output_tokens: 9n, estimated: false };

describe("an upstream that speaks Anthropic's dialect", () => {
  test("is asked in it, anew: with our limits and its own key, and nothing else of the caller's", async () => {
    const { secret } = await gateway.createChild();
    await clientOf(secret).beta.messages.create({
      model: "plain",
      max_tokens: 50,
      messages: [
        ...HI,
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "signed there", signature: "c2lnbmVk" },
            { type: "thinking", thinking: "by nobody", signature: "unsigned" },
            { type: "text", text: "yes?" },
          ],
        },
        ...HI,
      ],
      system: [{ type: "text", text: "be brief", cache_control: { type: "ephemeral" } }],
      metadata: { user_id: "the caller" },
      betas: ["context-management-2025-06-27"],
      context_management: { edits: [] },
      service_tier: "auto",
    });
    const { body, headers } = upstream.asked.at(-1) ?? {};
    expect(body).toEqual({
      model: "plain",
      max_tokens: 50,
      messages: [
        ...HI,
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "signed there", signature: "c2lnbmVk" },
            { type: "text", text: "yes?" },
          ],
        },
        ...HI,
      ],
      system: [{ type: "text", text: "be brief", cache_control: { type: "ephemeral" } }],
    });
    expect(headers).toMatchObject({ "x-api-key": UPSTREAM_KEY, "anthropic-version": "2023-06-01" });
    expect(JSON.stringify(headers)).not.toMatch(/gc-|stainless|anthropic-beta/);
  });

  test("is paid for all input, cached or not, and only by what it reports itself", async () => {
    const { id, secret } = await gateway.createChild();
    const request = { model: "plain", max_tokens: 50, messages: HI, tools: TOOLS };
    const answer = await clientOf(secret).messages.create(request);
    expect(answer).toMatchObject({
      id: expect.stringMatching(/^msg_[0-9a-f]{32}$/),
      model: "plain",
      stop_reason: "tool_use",
      usage: {
        input_tokens: 5,
        cache_creation_input_tokens: 7,
        cache_read_input_tokens: 11,
        output_tokens: 9,
        cost_units: COST.toString(),
      },
    });
    expect(answer.content).toEqual([
      { type: "thinking", thinking: "hm", signature: "c2lnbmVk" },
      { type: "text", text: expect.stringContaining("no report") },
      {
        type: "tool_use",
        id: expect.stringMatching(/^toolu_[0-9a-f]{32}$/),
        name: "weather",
        input: { city: "Oslo" },
      },
    ]);
    for (const model of ["plain", "late", "slow"]) {
      const streamed = await clientOf(secret)
        .messages.stream({ ...request, model })
        .finalMessage();
      expect(withoutIds(streamed.content)).toEqual(withoutIds(answer.content));
      expect(streamed.usage).toMatchObject({
        input_tokens: 5,
        cache_creation_input_tokens: 7,
        cache_read_input_tokens: 11,
        output_tokens: 9,
      });
    }
    expect(await recordsOf(id)).toEqual({ open: 0, usage: [PAID, PAID, PAID, PAID] });
  });

  test("is never named: its ids, its model and what else it says of itself stay behind", async () => {
    const { secret } = await gateway.createChild();
    for (const stream of [false, true]) {
      for (const model of ["plain", "overloaded"]) {
        const answer = await fetch(`${gateway.url}/v1/messages`, {
          method: "POST",
          headers: { "x-api-key": secret },
          body: JSON.stringify({ model, max_tokens: 50, messages: HI, tools: TOOLS, stream }),
        });
        const all = `${answer.status} ${await answer.text()} ${JSON.stringify([...answer.headers])}`;
        expect(all).toMatch(model === "plain" ? /^200 .*tool_use/s : /^529 .*overloaded_error/);
        expect(all).not.toContain(MARK);
      }
    }
  });

  test("that reports no output is charged for what was seen of it", async () => {
    const { id, secret } = await gateway.createChild();
    const request = { model: "no-usage", max_tokens: 50, messages: HI };
    await clientOf(secret).messages.create(request);
    await clientOf(secret).messages.stream(request).finalMessage();
    const [whole, streamed] = (await recordsOf(id)).usage;
    expect(whole).toMatchObject({ estimated: true });
    // Its input it did report, at the start
    expect(streamed).toMatchObject({ estimated: true, input_tokens: 23n });
    expect(Number(streamed?.output_tokens)).toBeGreaterThan(10);
  });

  test("that is cut, or left, is charged for its input and what was produced", async () => {
    const { id, secret } = await gateway.createChild();
    const cut = clientOf(secret).messages.stream({ model: "cut", max_tokens: 50, messages: HI });
    await expect(cut.finalMessage()).rejects.toThrow(/overloaded_error/);
    const left = clientOf(secret).messages.stream({ model: "slow", max_tokens: 50, messages: HI });
    for await (const { type } of left) if (type === "content_block_delta") break;
    left.abort();
    const both = async () => expect((await recordsOf(id)).usage).toHaveLength(2);
    await vi.waitFor(both, { timeout: 5_000, interval: 50 });
    const { open, usage } = await recordsOf(id);
    expect(open).toBe(0);
    for (const record of usage) {
      expect(record).toMatchObject({ input_tokens: 23n, estimated: true });
      expect(Number(record.output_tokens)).toBeLessThan(9);
    }
  });

  test("has its models listed where they can be asked for, and nowhere else", async () => {
    const { secret } = await gateway.createChild();
    const headers = { authorization: `Bearer ${secret}` };
    const listed = async (prefix: string, more: Record<string, string>) => {
      const at = `${gateway.url}${prefix}/v1/models`;
      const all = await fetch(at, { headers: { ...headers, ...more } });
      const { data } = (await all.json()) as { data: { id: string }[] };
      const one = await fetch(`${at}/plain`, { headers: { ...headers, ...more } });
      const ids = data.map(({ id }) => id);
      return [ids.includes("plain"), ids.includes("demo/fast"), one.status];
    };
    const anthropic = { "anthropic-version": "2023-06-01" };
    expect(await listed("", anthropic)).toEqual([true, true, 200]);
    expect(await listed("", {})).toEqual([false, true, 404]);
    expect(await listed("/api", {})).toEqual([false, true, 404]);
    const rpc = await fetch(`${gateway.url}/keytoll.v1.InferenceService/ListModels`, {
      ...{ method: "POST", body: "{}" },
      headers: { ...headers, "content-type": "application/json" },
    });
    const { data } = (await rpc.json()) as { data: { id: string }[] };
    expect(data.map(({ id }) => id)).toContain("demo/fast");
    expect(data.map(({ id }) => id)).not.toContain("plain");
  });

  test("leaves models of other upstreams to be asked in their own words", async () => {
    const { secret } = await gateway.createChild();
    const before = upstream.asked.length;
    const answer = await clientOf(secret).messages.create({
      model: "demo/fast",
      max_tokens: 50,
      messages: HI,
    });
    expect(answer.stop_reason).toBe("end_turn");
    expect(upstream.asked.length).toBe(before);
  });
});

const withoutIds = (content: Anthropic.ContentBlock[]) =>
  content.map((block) => ({ ...block, id: undefined }));
