import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  embedMany,
  generateText,
  RetryError,
  stepCountIs,
  streamText,
  tool,
} from "ai";
import { z } from "zod";
import { aWorld, type ForeignClient, tryClient } from "./matrix.js";

const world = aWorld();
const providerOf = (apiKey: string) =>
  createOpenAICompatible({
    name: "shop",
    apiKey,
    baseURL: `${world().url}/v1`,
    includeUsage: true,
  });
const prompt = "hi";
const tools = {
  weather: tool({
    inputSchema: z.object({ city: z.enum(["Tokyo", "Berlin"]) }),
    execute: async () => "sunny",
  }),
};

const client: ForeignClient = {
  name: "ai + @ai-sdk/openai-compatible",
  route: "POST /v1/chat/completions",
  waits: true,
  believes: false,
  // It takes every 409 for one that passes
  repeats: [409],
  slowness: 2_000,
  async embed(secret, values) {
    const model = providerOf(secret).embeddingModel("demo/embedding");
    return (await embedMany({ model, values })).embeddings;
  },
  async chat(secret, model, signal) {
    const asked = { model: providerOf(secret)(model), prompt };
    return (await generateText({ ...asked, ...(signal && { abortSignal: signal }) })).text;
  },
  async stream(secret, model, leaveAfter = Number.POSITIVE_INFINITY) {
    const leaving = new AbortController();
    const texts: string[] = [];
    const asked = { model: providerOf(secret)(model), prompt, abortSignal: leaving.signal };
    for await (const text of streamText(asked).textStream) {
      texts.push(text);
      if (texts.length >= leaveAfter) leaving.abort();
    }
    return texts;
  },
  async tool(secret, streamed) {
    const asked = {
      model: providerOf(secret)("demo/fast"),
      prompt,
      tools,
      stopWhen: stepCountIs(2),
    };
    const { steps, text } = streamed ? streamText(asked) : await generateText(asked);
    const [call] = (await steps)[0]?.toolCalls ?? [];
    return { city: (call?.input as { city?: unknown } | undefined)?.city, answer: await text };
  },
  statusOf(error) {
    const last = RetryError.isInstance(error) ? error.lastError : error;
    return APICallError.isInstance(last) ? last.statusCode : undefined;
  },
};

tryClient(client, world);
