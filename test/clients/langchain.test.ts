import { type AIMessageChunk, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { aWorld, type ForeignClient, tryClient, WEATHER } from "./matrix.js";

const world = aWorld();
const configuration = () => ({ baseURL: `${world().url}/v1` });
const modelOf = (apiKey: string, model: string) =>
  new ChatOpenAI({ apiKey, model, configuration: configuration() });
const tools = [{ type: "function", function: { name: "weather", parameters: WEATHER } }];

const client: ForeignClient = {
  name: "langchain ChatOpenAI",
  route: "POST /v1/chat/completions",
  waits: false,
  believes: false,
  // It gives up on a list of statuses that this one is not on
  repeats: [413],
  async embed(apiKey, texts) {
    const asked = { apiKey, model: "demo/embedding", configuration: configuration() };
    return await new OpenAIEmbeddings(asked).embedDocuments(texts);
  },
  async chat(secret, model, signal) {
    const answer = await modelOf(secret, model).invoke("hi", signal ? { signal } : {});
    return answer.text;
  },
  async stream(secret, model, leaveAfter = Number.POSITIVE_INFINITY) {
    const texts: string[] = [];
    for await (const { text } of await modelOf(secret, model).stream("hi")) {
      if (text) texts.push(text);
      if (texts.length >= leaveAfter) break;
    }
    return texts;
  },
  async tool(secret, streamed) {
    const model = modelOf(secret, "demo/fast").bindTools(tools);
    const asked = new HumanMessage("hi");
    const said = streamed ? await whole(await model.stream([asked])) : await model.invoke([asked]);
    const [call] = said.tool_calls ?? [];
    const told = new ToolMessage({ content: "sunny", tool_call_id: call?.id ?? "" });
    return { city: call?.args.city, answer: (await model.invoke([asked, said, told])).text };
  },
  statusOf: (error) => (error as { status?: number }).status,
};

async function whole(chunks: AsyncIterable<AIMessageChunk>): Promise<AIMessageChunk> {
  let all: AIMessageChunk | undefined;
  for await (const chunk of chunks) all = all === undefined ? chunk : all.concat(chunk);
  if (all === undefined) throw new Error("an empty stream");
  return all;
}

tryClient(client, world);
