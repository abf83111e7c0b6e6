import OpenAI from "openai";
import { aWorld, type ForeignClient, tryClient, WEATHER } from "./matrix.js";

const world = aWorld();
const clientOf = (apiKey: string) => new OpenAI({ apiKey, baseURL: `${world().url}/v1` });
const messages = [{ role: "user" as const, content: "hi" }];
const tools = [{ type: "function" as const, function: { name: "weather", parameters: WEATHER } }];

const client: ForeignClient = {
  name: "openai (JavaScript)",
  route: "POST /v1/chat/completions",
  waits: true,
  believes: true,
  repeats: [],
  async models(secret) {
    const ids: string[] = [];
    for await (const { id } of clientOf(secret).models.list()) ids.push(id);
    return ids;
  },
  async embed(secret, input) {
    const { data } = await clientOf(secret).embeddings.create({ model: "demo/embedding", input });
    return data.map(({ embedding }) => embedding);
  },
  async chat(secret, model, signal) {
    const { completions } = clientOf(secret).chat;
    const { choices } = await completions.create({ model, messages }, signal ? { signal } : {});
    return choices[0]?.message.content ?? "";
  },
  async stream(secret, model, leaveAfter = Number.POSITIVE_INFINITY) {
    const { completions } = clientOf(secret).chat;
    const texts: string[] = [];
    for await (const { choices } of await completions.create({ model, messages, stream: true })) {
      const text = choices[0]?.delta.content;
      if (text) texts.push(text);
      if (texts.length >= leaveAfter) break;
    }
    return texts;
  },
  async tool(secret, streamed) {
    const { completions } = clientOf(secret).chat;
    const ask = { model: "demo/fast", messages, tools };
    const { choices } = streamed
      ? await completions.stream(ask).finalChatCompletion()
      : await completions.create(ask);
    const message = choices[0]?.message;
    const [call] = message?.tool_calls ?? [];
    if (message === undefined || call?.type !== "function") throw new Error("no call");
    const { city } = JSON.parse(call.function.arguments);
    const told = { role: "tool" as const, tool_call_id: call.id, content: "sunny" };
    const next = await completions.create({ ...ask, messages: [...messages, message, told] });
    return { city, answer: next.choices[0]?.message.content ?? "" };
  },
  statusOf: (error) => (error instanceof OpenAI.APIError ? error.status : undefined),
};

tryClient(client, world);
