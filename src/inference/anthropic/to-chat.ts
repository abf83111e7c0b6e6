import { refuse } from "../../base/errors.js";
import type { ChatRequest } from "../parameters.js";
import type { Json } from "../values.js";
import type {
  Block,
  ImageBlock,
  TextBlock,
  ToolResultBlock,
  ToolUseBlock,
  Turn,
} from "./blocks.js";
import type { MessagesRequest } from "./request.js";
import type { Tool, ToolChoice } from "./tools.js";

/** A message in the words of a chat completion, for the upstreams that speak those. */
export type TranslatedRequest = MessagesRequest & ChatRequest;

/**
 * Says a message in the words of a chat completion. Whichever of both is longer bounds its tokens.
 *
 * @throws invalid_request_error  nested too deeply to be written
 */
export function toChatRequest(asked: MessagesRequest): TranslatedRequest {
  try {
    const passed = { messages: messagesOf(asked), ...parametersOf(asked) };
    const written = Buffer.byteLength(JSON.stringify(passed));
    const bytes = Math.max(asked.bytes, written);
    return { ...asked, passed, bytes, includeUsage: true };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw refuse("invalid_request_error", { message: "the body is nested too deeply" });
  }
}

function parametersOf(asked: MessagesRequest): Json {
  const { passed, tools, toolChoice, stopSequences, schema, thinking } = asked;
  const { temperature, top_p, top_k } = passed;
  return {
    ...(tools.length > 0 && { tools: tools.map(toolOf), ...choiceOf(toolChoice) }),
    ...(stopSequences.length > 0 && { stop: stopSequences }),
    ...(temperature !== undefined && { temperature }),
    ...(top_p !== undefined && { top_p }),
    ...(top_k !== undefined && { top_k }),
    ...(thinking.effort !== undefined && { reasoning_effort: thinking.effort }),
    ...(schema !== undefined && {
      response_format: {
        type: "json_schema",
        json_schema: { name: "answer", schema, strict: true },
      },
    }),
  };
}

const toolOf = ({ name, description, schema, strict }: Tool): Json => ({
  type: "function",
  function: {
    name,
    ...(description !== undefined && { description }),
    parameters: schema,
    ...(strict && { strict }),
  },
});

function choiceOf(choice: ToolChoice | undefined): Json {
  if (choice === undefined) return {};
  const { tool, parallel } = choice;
  const words = { auto: "auto", any: "required", none: "none" };
  return {
    tool_choice:
      typeof tool === "string" ? words[tool] : { type: "function", function: { name: tool.name } },
    ...(!parallel && { parallel_tool_calls: false }),
  };
}

function messagesOf({ system, turns }: MessagesRequest): Json[] {
  const first = system.length === 0 ? [] : [{ role: "system", content: system.join("\n") }];
  return [...first, ...turns.flatMap(turnOf)];
}

const turnOf = ({ role, blocks }: Turn): Json[] =>
  role === "user" ? userMessages(blocks) : [assistantMessage(blocks)];

/** Results follow the calls at once, so what the user says comes behind them. */
function userMessages(blocks: readonly Block[]): Json[] {
  const results = blocks.filter((block): block is ToolResultBlock => block.type === "tool_result");
  const said = [...results.flatMap(imagesOf), ...blocks.filter(isShown)];
  const user = said.length === 0 && results.length > 0 ? [] : [userMessage(said)];
  return [...results.map(resultMessage), ...user];
}

function userMessage(said: readonly (TextBlock | ImageBlock)[]): Json {
  if (said.every(isText)) return { role: "user", content: joined(said) };
  const content = said.map((block) =>
    isText(block) ? block : { type: "image_url", image_url: { url: block.url } },
  );
  return { role: "user", content };
}

/** The message that answers a call holds only text: images are shown behind it. */
function resultMessage({ id, content, isError }: ToolResultBlock): Json {
  const text = joined(content.filter(isText));
  return { role: "tool", tool_call_id: id, content: isError ? `Error: ${text}` : text };
}

function imagesOf({ id, content }: ToolResultBlock): (TextBlock | ImageBlock)[] {
  const images = content.filter((block) => !isText(block));
  return images.length === 0 ? [] : [{ type: "text", text: `Images of ${id}:` }, ...images];
}

function assistantMessage(blocks: readonly Block[]): Json {
  const calls = blocks.filter((block): block is ToolUseBlock => block.type === "tool_use");
  return {
    role: "assistant",
    content: joined(blocks.filter(isText)),
    ...(calls.length > 0 && { tool_calls: calls.map(callOf) }),
  };
}

const callOf = ({ id, name, input }: ToolUseBlock): Json => ({
  id,
  type: "function",
  function: { name, arguments: JSON.stringify(input) },
});

const isText = (block: Block): block is TextBlock => block.type === "text";
const isShown = (block: Block): block is TextBlock | ImageBlock =>
  block.type === "text" || block.type === "image";
const joined = (blocks: readonly TextBlock[]) => blocks.map(({ text }) => text).join("\n");
