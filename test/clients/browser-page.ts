// Runs in a browser: what a page does with an unmodified @connectrpc/connect-web.
import { type Client, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { ErrorInfoSchema, RetryInfoSchema } from "../../src/gen/google/rpc/errors_pb.js";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";

/** What the page is asked to do. Everything in it and in its answer is plain JSON. */
export interface Task {
  protocol: "connect" | "grpc-web";
  baseUrl: string;
  secret: string;
  act: keyof typeof ACTS;
  model?: string;
}

export interface Outcome {
  answer?: unknown;
  requestId?: string | null;
  code?: number;
  reason?: string | undefined;
  facts?: Record<string, string> | undefined;
  /** Seconds. */
  retryDelay?: number | undefined;
}

type Inference = Client<typeof InferenceService>;
interface Visit {
  client: Inference;
  model: string;
  headers: Record<string, string>;
  /** Told of the headers of the answer. */
  onHeader(headers: Headers): void;
}

const messages = [{ role: "user", content: "hello" }];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];

const toolChoice = { kind: { case: "stringValue", value: "required" } } as const;

const ACTS = {
  async models({ client, ...options }: Visit) {
    return (await client.listModels({}, options)).data.map(({ id }) => id);
  },
  async chat({ client, model, ...options }: Visit) {
    const { choices, usage } = await client.createChatCompletion({ model, messages }, options);
    return { text: choices[0]?.message?.content, cost: usage?.costUnits };
  },
  async stream({ client, model, ...options }: Visit) {
    let [text, cost, chunks] = ["", "", 0];
    const completion = { model, messages };
    for await (const chunk of client.streamChatCompletion({ completion }, options)) {
      text += chunk.choices[0]?.delta?.content ?? "";
      cost = chunk.usage?.costUnits ?? cost;
      chunks += 1;
    }
    return { text, cost, chunks };
  },
  async tool({ client, model, ...options }: Visit) {
    const asked = { model, messages, tools, toolChoice };
    const { choices } = await client.createChatCompletion(asked, options);
    return {
      finish: choices[0]?.finishReason,
      call: choices[0]?.message?.toolCalls[0]?.function?.name,
    };
  },
  async abort({ client, model, ...options }: Visit) {
    const stop = new AbortController();
    const completion = { model, messages };
    const all = { ...options, signal: stop.signal };
    for await (const _ of client.streamChatCompletion({ completion }, all)) stop.abort();
    return "never aborted";
  },
  async deadline({ client, model, ...options }: Visit) {
    await client.createChatCompletion({ model, messages }, { ...options, timeoutMs: 300 });
    return "never cut";
  },
};

async function run({
  protocol,
  baseUrl,
  secret,
  act,
  model = "demo/fast",
}: Task): Promise<Outcome> {
  const create = protocol === "connect" ? createConnectTransport : createGrpcWebTransport;
  const client = createClient(InferenceService, create({ baseUrl }));
  const outcome: Outcome = {};
  const headers = { authorization: `Bearer ${secret}`, "idempotency-key": crypto.randomUUID() };
  const onHeader = (all: Headers) => {
    outcome.requestId = all.get("x-request-id");
  };
  try {
    outcome.answer = await ACTS[act]({ client, model, headers, onHeader });
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    const [info] = error.findDetails(ErrorInfoSchema);
    const [retry] = error.findDetails(RetryInfoSchema);
    outcome.code = error.code;
    outcome.reason = info?.reason;
    outcome.facts = info?.metadata;
    outcome.requestId = error.metadata.get("x-request-id");
    outcome.retryDelay = retry && Number(retry.retryDelay?.seconds);
  }
  return outcome;
}

Object.assign(globalThis, { run });
