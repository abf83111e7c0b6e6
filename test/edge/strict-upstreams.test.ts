import OpenAI, { APIError } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { expectBooksAreRight } from "../support/books.js";
import { startTestGateway, type TestGateway, UPSTREAM_KEY } from "../support/gateway.js";
import { broker, NETWORK_MODEL, ownGateway } from "../support/strict-upstreams.js";
import { startUpstream, type TestUpstream } from "../support/upstreams.js";

const HI = [{ role: "user" as const, content: "hi" }];
/** Of the upstream; what an answer itself says aside. */
const UPSTREAM_WORDS = /gonka|gnk|devshard|broker|obk|minimax|escrow|unroutable|purse|deposit/i;
/** One for each fault, since an upstream is left alone for each model by itself. */
const MODELS = ["demo/fast", "demo/cut", "demo/hang", "demo/long", "demo/slow", "demo/no-usage"];
const TOOL = {
  type: "function" as const,
  function: { name: "weather", parameters: { type: "object", properties: {} } },
};

describe.each([
  ["a gateway of the network", ownGateway],
  ["a broker", broker],
])("through %s, by configuration alone,", (_, behaviour) => {
  const faults: number[] = [];
  let upstream: TestUpstream;
  let gateway: TestGateway;
  let child: { id: string; secret: string };
  let client: OpenAI;
  /** All that the client was sent, but texts of the model. */
  let seen: string[];
  beforeAll(async () => {
    upstream = await startUpstream(behaviour(UPSTREAM_KEY, faults));
    const models = MODELS.map((id) => ({ id, upstream_id: NETWORK_MODEL }));
    gateway = await startTestGateway({
      upstreams: [{ name: "network", url: upstream.url, models, strict: true }],
    });
    child = await gateway.createChild();
    seen = [];
    client = new OpenAI({
      apiKey: child.secret,
      baseURL: `${gateway.url}/v1`,
      maxRetries: 0,
      async fetch(url, init) {
        const answer = await fetch(url, init);
        seen.push(JSON.stringify([...answer.headers]), await answer.clone().text());
        return answer;
      },
    });
  });
  afterAll(async () => {
    await gateway?.close();
    await upstream?.close();
  });

  const ask = (fields: object = {}) =>
    client.chat.completions.create({ model: "demo/fast", messages: HI, ...fields });
  const errorOf = async (fields: object) => {
    const error = await ask(fields).catch((reason: unknown) => reason);
    if (!(error instanceof APIError)) throw new Error(`no APIError: ${error}`);
    return { status: error.status, code: error.code, wait: error.headers?.get("retry-after") };
  };

  test("parameters that it does not know never reach it, and those that it knows do", async () => {
    const answer = await ask({
      ...{ temperature: 0.5, n: 5, tools: [TOOL], response_format: { type: "json_object" } },
      ...{ top_k: 3, min_p: 0.1, chat_template_kwargs: { thinking: false }, colour: "blue" },
      ...{ store: true, metadata: { a: "b" }, user: "me", functions: [], verbosity: "low" },
    });
    expect(answer.choices[0]?.message.content).toBe("hello from the shard");
    expect(answer.model).toBe("demo/fast");
    const body = upstream.visits.at(-1)?.body ?? {};
    expect(Object.keys(body).sort()).toEqual(
      "max_tokens messages model n response_format temperature tools".split(" "),
    );
    expect(body).toMatchObject({ n: 5, temperature: 0.5, model: NETWORK_MODEL });
  });

  test("a stream and one with usage work; stream_options go with streams only", async () => {
    for (const include_usage of [false, true]) {
      const options = include_usage ? { stream_options: { include_usage } } : {};
      const stream = await client.chat.completions.create({
        ...{ model: "demo/fast", messages: HI, stream: true, ...options },
      });
      let text = "";
      let tokens: number | undefined;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? "";
        tokens = chunk.usage?.total_tokens ?? tokens;
      }
      expect([text, tokens]).toEqual(["hello from the shard", include_usage ? 5 : undefined]);
    }
    await ask();
    expect(upstream.visits.at(-1)?.body).not.toHaveProperty("stream_options");
  });

  test("text as parts and long talks work; what it refuses is refused in our words", async () => {
    const parts = [{ role: "user", content: [{ type: "text", text: "hi" }] }];
    expect((await ask({ messages: parts })).choices).toHaveLength(1);
    const talk = (length: number) => Array.from({ length }, () => HI[0]);
    expect((await ask({ messages: talk(2_048) })).choices).toHaveLength(1);
    expect(await errorOf({ messages: talk(2_049) })).toMatchObject({
      ...{ status: 400, code: "invalid_request_error" },
    });
  });

  test("each of its faults has our status, our reason and a true time to wait", async () => {
    const cases: [number, string, number, string, string | null][] = [
      [429, "demo/cut", 429, "upstream_rate_limited", "1"],
      [502, "demo/hang", 503, "model_unavailable", null],
      [503, "demo/long", 503, "model_unavailable", "10"],
      [504, "demo/slow", 504, "upstream_timeout", null],
      [402, "demo/no-usage", 503, "model_unavailable", null],
    ];
    for (const [fault, model, status, code, wait] of cases) {
      faults.push(fault);
      expect(await errorOf({ model })).toEqual({ status, code, wait });
      expect(faults).toEqual([]);
    }
    // What is left alone is refused without a word to the upstream
    const visits = upstream.visits.length;
    expect(await errorOf({ model: "demo/long" })).toMatchObject({ code: "model_unavailable" });
    expect(upstream.visits.length).toBe(visits);
  });

  test("the SDK's own retry gets through a throttle", async () => {
    const before = upstream.visits.length;
    faults.push(429);
    const patient = client.withOptions({ maxRetries: 2 });
    const { choices } = await patient.chat.completions.create({ model: "demo/fast", messages: HI });
    expect(choices).toHaveLength(1);
    expect(upstream.visits.length - before).toBe(2);
  });

  test("nothing that its client was sent names the network, and the books are right", async () => {
    for (const text of seen) {
      expect(text.replaceAll("hello from the shard", "")).not.toMatch(UPSTREAM_WORDS);
    }
    expect(seen.length).toBeGreaterThan(20);
    const [{ n } = { n: -1 }] = await gateway.sql<{ n: number }[]>`
      select count(*)::int n from usage_record where child_key_id = ${child.id}`;
    // One for each answer, none for a refusal
    expect(n).toBe(7);
    await expectBooksAreRight(gateway.sql);
  });
});
