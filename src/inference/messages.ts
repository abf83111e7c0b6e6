import {
  create,
  type DescMessage,
  type JsonObject,
  type MessageInitShape,
  type MessageShape,
  ScalarType,
  toJson,
} from "@bufbuild/protobuf";
import { timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import { SECOND } from "../base/time.js";
import {
  type ChatMessageSchema,
  type CreateChatCompletionRequest,
  CreateChatCompletionRequestSchema,
  type CreateChatCompletionResponseSchema,
  type CreateEmbeddingRequest,
  CreateEmbeddingRequestSchema,
  type CreateEmbeddingResponseSchema,
  type StreamChatCompletionResponseSchema,
  type ToolCallSchema,
  type UsageSchema,
} from "../gen/keytoll/v1/inference_pb.js";
import { isObject, type Json } from "./values.js";

type Completion = MessageInitShape<typeof CreateChatCompletionResponseSchema>;
type Chunk = MessageInitShape<typeof StreamChatCompletionResponseSchema>;
type Message = MessageInitShape<typeof ChatMessageSchema>;
type ToolCall = MessageInitShape<typeof ToolCallSchema>;
type Usage = MessageInitShape<typeof UsageSchema>;

type Embeddings = MessageInitShape<typeof CreateEmbeddingResponseSchema>;

/** Decided by the method that is called, so they can't stand in `extra`. */
const BY_METHOD = ["stream", "stream_options", "encoding_format"];

/**
 * The JSON body of a request that came as a message.
 *
 * @throws invalid_request_error a name in `extra` that stands above it, or a value that JSON cannot
 *   carry
 */
export function toBody(request: CreateChatCompletionRequest, stream: boolean): Buffer {
  const fields = fieldsOf(CreateChatCompletionRequestSchema, request);
  const seed = fields.seed === undefined ? undefined : Number(fields.seed);
  if (seed !== undefined && !Number.isSafeInteger(seed)) {
    throw refuseField("seed", "must be at most 2^53 - 1");
  }
  const body = {
    ...fields,
    ...(fields.messages !== undefined && { messages: list(fields.messages).map(withParts) }),
    ...(seed !== undefined && { seed }),
    ...(stream && { stream, stream_options: { include_usage: true } }),
  };
  return Buffer.from(JSON.stringify(body));
}

/** The same for embeddings. @throws invalid_request_error likewise */
export function toEmbeddingBody(request: CreateEmbeddingRequest): Buffer {
  return Buffer.from(JSON.stringify(fieldsOf(CreateEmbeddingRequestSchema, request)));
}

/** JSON has parts where it has text. */
function withParts({ parts, ...message }: Json, i: number): Json {
  if (parts === undefined) return message;
  if (message.content === undefined) return { ...message, content: parts };
  throw refuseField(`messages[${i}].parts`, "must not stand beside content");
}

/** The request by its JSON names, with what `extra` adds. */
function fieldsOf<Desc extends DescMessage>(schema: Desc, request: MessageShape<Desc>): Json {
  const { extra, ...fields } = encoded(schema, request) ?? refuseUnencoded(schema, request);
  for (const { name, scalar } of schema.fields) {
    // NaN and the infinities become words
    if (scalar === ScalarType.DOUBLE && typeof fields[name] === "string") {
      throw refuseField(name, "must be a finite number");
    }
  }
  if (!isObject(extra)) return fields;
  const taken = [...schema.fields.map((field) => field.name), ...BY_METHOD];
  for (const name of Object.keys(extra)) {
    if (taken.includes(name)) throw refuseField(`extra.${name}`, "is a field of its own");
  }
  return { ...fields, ...extra };
}

/** @returns undefined where a free-form value has NaN, an infinity or nothing at all in it */
function encoded<Desc extends DescMessage>(
  schema: Desc,
  request: MessageShape<Desc>,
): Json | undefined {
  try {
    return toJson(schema, request, { useProtoFieldName: true }) as Json;
  } catch {
    return undefined;
  }
}

function refuseUnencoded<Desc extends DescMessage>(
  schema: Desc,
  request: MessageShape<Desc>,
): never {
  const values = Object.entries(request);
  const culprit = schema.fields.find(({ localName }) => {
    const alone = values.filter(([name]) => name === localName);
    const init = Object.fromEntries(alone) as MessageInitShape<Desc>;
    return encoded(schema, create(schema, init)) === undefined;
  });
  throw refuseField(culprit?.name ?? "completion", "has a value that JSON cannot carry");
}

/** A chat completion of ours as a message. */
export function toCompletion(answer: Json): Completion {
  return {
    ...head(answer),
    choices: list(answer.choices).map((choice) => ({
      index: count(choice.index),
      message: message(choice.message),
      finishReason: text(choice.finish_reason) ?? "",
      ...logprobs(choice.logprobs),
    })),
    ...usage(answer.usage),
  };
}

/** A chunk of ours as a message. */
export function toChunk(payload: string): Chunk {
  const chunk = JSON.parse(payload) as Json;
  return {
    ...head(chunk),
    choices: list(chunk.choices).map((choice) => {
      const finishReason = text(choice.finish_reason);
      return {
        index: count(choice.index),
        delta: message(choice.delta),
        ...(finishReason !== undefined && { finishReason }),
        ...logprobs(choice.logprobs),
      };
    }),
    ...usage(chunk.usage),
    ...stopReason(chunk.stop_reason),
  };
}

/** Embeddings of ours as a message. */
export function toEmbeddings(answer: Json): Embeddings {
  return {
    model: text(answer.model) ?? "",
    data: list(answer.data).map(({ index, embedding }) => ({
      index: count(index),
      embedding: Array.isArray(embedding) ? embedding : [],
    })),
    ...usage(answer.usage),
  };
}

const logprobs = (value: unknown): { logprobs?: JsonObject } =>
  isObject(value) ? { logprobs: value as JsonObject } : {};

const head = (answer: Json) => ({
  id: text(answer.id) ?? "",
  model: text(answer.model) ?? "",
  created: timestampFromMs(count(answer.created) * SECOND),
});

function usage(value: unknown): { usage?: Usage } {
  if (!isObject(value)) return {};
  return {
    usage: {
      promptTokens: count(value.prompt_tokens),
      completionTokens: count(value.completion_tokens),
      totalTokens: count(value.total_tokens),
      costUnits: text(value.cost_units) ?? "",
      estimated: value.estimated === true,
    },
  };
}

function stopReason(value: unknown): Pick<Chunk, "stopReason"> {
  if (!isObject(value)) return {};
  const resetsAt = text(value.resets_at);
  return {
    stopReason: {
      code: text(value.code) ?? "",
      message: text(value.message) ?? "",
      ...(resetsAt !== undefined && { resetsAt: timestampFromDate(new Date(resetsAt)) }),
    },
  };
}

function message(value: unknown): Message {
  if (!isObject(value)) return {};
  const content = text(value.content);
  const name = text(value.name);
  const reasoningContent = text(value.reasoning_content);
  return {
    role: text(value.role) ?? "",
    ...(content !== undefined && { content }),
    ...(name !== undefined && { name }),
    ...(reasoningContent !== undefined && { reasoningContent }),
    toolCalls: list(value.tool_calls).map(toolCall),
  };
}

function toolCall(value: Json): ToolCall {
  const called = isObject(value.function) ? value.function : {};
  return {
    id: text(value.id) ?? "",
    type: text(value.type) ?? "",
    function: { name: text(called.name) ?? "", arguments: text(called.arguments) ?? "" },
    ...(typeof value.index === "number" && { index: value.index }),
  };
}

const text = (value: unknown) => (typeof value === "string" ? value : undefined);
const count = (value: unknown) => (Number.isInteger(value) ? (value as number) : 0);
const list = (value: unknown): Json[] => (Array.isArray(value) ? value.filter(isObject) : []);
