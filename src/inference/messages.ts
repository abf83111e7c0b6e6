import { create, type MessageInitShape, ScalarType, toJson } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import { SECOND } from "../base/time.js";
import {
  type ChatMessageSchema,
  type CreateChatCompletionRequest,
  CreateChatCompletionRequestSchema,
  type CreateChatCompletionResponseSchema,
  type StreamChatCompletionResponseSchema,
  type ToolCallSchema,
  type UsageSchema,
} from "../gen/keytoll/v1/inference_pb.js";
import { isObject, type Json } from "./parameters.js";

type Completion = MessageInitShape<typeof CreateChatCompletionResponseSchema>;
type Chunk = MessageInitShape<typeof StreamChatCompletionResponseSchema>;
type Message = MessageInitShape<typeof ChatMessageSchema>;
type ToolCall = MessageInitShape<typeof ToolCallSchema>;
type Usage = MessageInitShape<typeof UsageSchema>;

const schema = CreateChatCompletionRequestSchema;

/** Decided by the method that is called, so they can't stand in `extra`. */
const BY_METHOD = ["stream", "stream_options"];

/**
 * The JSON body of a request that came as a message.
 *
 * @throws invalid_request_error a name in `extra` that stands above it, or a value that JSON cannot
 *   carry
 */
export function toBody(request: CreateChatCompletionRequest, stream: boolean): Buffer {
  const { extra, ...fields } = toFields(request);
  const taken = [...schema.fields.map((field) => field.name), ...BY_METHOD];
  for (const name of Object.keys(isObject(extra) ? extra : {})) {
    if (taken.includes(name)) throw refuseField(`extra.${name}`, "is a field of its own");
  }
  const seed = fields.seed === undefined ? undefined : Number(fields.seed);
  if (seed !== undefined && !Number.isSafeInteger(seed)) {
    throw refuseField("seed", "must be at most 2^53 - 1");
  }
  const body = {
    ...fields,
    ...(isObject(extra) && extra),
    ...(seed !== undefined && { seed }),
    ...(stream && { stream, stream_options: { include_usage: true } }),
  };
  return Buffer.from(JSON.stringify(body));
}

/** The request by its JSON names. */
function toFields(request: CreateChatCompletionRequest): Json {
  const fields = encoded(request) ?? refuseUnencoded(request);
  for (const { name, scalar } of schema.fields) {
    // NaN and the infinities become words
    if (scalar === ScalarType.DOUBLE && typeof fields[name] === "string") {
      throw refuseField(name, "must be a finite number");
    }
  }
  return fields;
}

/** @returns undefined where a free-form value has NaN, an infinity or nothing at all in it */
function encoded(request: CreateChatCompletionRequest): Json | undefined {
  try {
    return toJson(schema, request, { useProtoFieldName: true }) as Json;
  } catch {
    return undefined;
  }
}

function refuseUnencoded(request: CreateChatCompletionRequest): never {
  const values = Object.entries(request);
  const culprit = schema.fields.find(({ localName }) => {
    const alone = values.filter(([name]) => name === localName);
    return encoded(create(schema, Object.fromEntries(alone))) === undefined;
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
      };
    }),
    ...usage(chunk.usage),
  };
}

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
