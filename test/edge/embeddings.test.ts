import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";

let gateway: TestGateway;
beforeAll(async () => {
  gateway = await startTestGateway();
});
afterAll(() => gateway?.close());

const MODEL = "demo/embedding";
const clientOf = (secret: string) =>
  new OpenAI({ apiKey: secret, baseURL: `${gateway.url}/v1`, maxRetries: 0 });

const usageOf = async (child: string) => [
  ...(await gateway.sql`
    select cost, input_tokens, output_tokens, estimated, model from usage_record
     where child_key_id = ${child} order by usage_seq`),
];

test("embeddings cost the tokens that were read, to the unit, at both addresses", async () => {
  const { id, secret } = await gateway.createChild();
  const cost = priceOf(DEMO_PRICE, 5n, 0n);
  for (const path of ["/v1", "/api/v1"]) {
    const client = new OpenAI({ apiKey: secret, baseURL: gateway.url + path, maxRetries: 0 });
    const { data, model, usage } = await client.embeddings.create({
      model: MODEL,
      input: ["hello", "a longer one"],
      dimensions: 8,
    });
    expect(data.map(({ index, embedding }) => [index, embedding.length])).toEqual([
      [0, 8],
      [1, 8],
    ]);
    expect(model).toBe(MODEL);
    expect(usage).toEqual({
      prompt_tokens: 5,
      total_tokens: 5,
      cost: Number(cost) / 1e9,
      cost_units: cost.toString(),
    });
  }
  const record = { cost, input_tokens: 5n, output_tokens: 0n, estimated: false, model: MODEL };
  expect(await usageOf(id)).toEqual([record, record]);
});

test("texts, tokens and lists of both are embedded, in numbers or bytes that say the same", async () => {
  const { embeddings } = clientOf((await gateway.createChild()).secret);
  const embed = async (input: OpenAI.EmbeddingCreateParams["input"], more = {}) =>
    (await embeddings.create({ model: MODEL, input, ...more })).data.map((it) => it.embedding);
  const [text] = await embed("hello", { encoding_format: "float" });
  // The client asks for base64 by itself, and reads it
  expect(await embed("hello")).toEqual([text]);
  expect(await embed([1, 2, 3])).toHaveLength(1);
  expect(await embed([[1, 2], [3]])).toHaveLength(2);
});

test("what would change the cost, or is wrong, is refused by name and costs nothing", async () => {
  const { id, secret } = await gateway.createChild();
  const cases: [object, string][] = [
    [{ input: undefined }, "input"],
    [{ input: [] }, "input"],
    [{ input: ["a", 5] }, "input[1]"],
    [{ input: [{ image: "x" }] }, "input[0]"],
    [{ input: [[-1]] }, "input[0]"],
    [{ input: Array(2_049).fill("a") }, "input"],
    [{ encoding_format: "ubinary" }, "encoding_format"],
    [{ dimensions: 0 }, "dimensions"],
    [{ messages: [] }, "messages"],
    [{ stream: true }, "stream"],
    [{ service_tier: "flex" }, "service_tier"],
    [{ colour: "red" }, "colour"],
  ];
  for (const [more, param] of cases) {
    const answer = await fetch(`${gateway.url}/v1/embeddings`, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}` },
      body: JSON.stringify({ model: MODEL, input: "hello", user: "u-1", ...more }),
    });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ error: { param } });
  }
  await expect(
    clientOf(secret).embeddings.create({ model: "demo/none", input: "a" }),
  ).rejects.toMatchObject({ status: 404, code: "model_not_found" });
  expect(await usageOf(id)).toEqual([]);
});
