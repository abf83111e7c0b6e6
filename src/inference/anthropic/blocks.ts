import { refuseField } from "../../base/errors.js";
import type { Pictures } from "../content.js";
import { isAbsent, isObject, type Json } from "../values.js";

export interface TextBlock {
  type: "text";
  text: string;
}

export interface ImageBlock {
  type: "image";
  /** An address, or the image itself as a data URL. */
  url: string;
}

export interface ToolUseBlock {
  type: "tool_use";
  id: string;
  name: string;
  input: Json;
}

export interface ToolResultBlock {
  type: "tool_result";
  /** Of the tool_use block that it answers. */
  id: string;
  content: (TextBlock | ImageBlock)[];
  isError: boolean;
}

export type Block = TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock;

/** What one side has said, without its thoughts: those are shown, and not read again. */
export interface Turn {
  role: "user" | "assistant";
  blocks: Block[];
}

const IMAGE = /^image\/[a-z0-9.+-]+$/i;
const THOUGHTS = new Set(["thinking", "redacted_thinking"]);

/**
 * Reads a conversation. Messages of one side that follow each other are one turn.
 *
 * @throws invalid_request_error with the path of what is wrong, or not known to us
 */
export function readTurns(messages: unknown): Turn[] {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw refuseField("messages", "must be a list of at least one message");
  }
  const turns: Turn[] = [];
  for (const [i, message] of messages.entries()) {
    const turn = readTurn(message, `messages[${i}]`);
    const last = turns.at(-1);
    if (last?.role === turn.role) last.blocks.push(...turn.blocks);
    else turns.push(turn);
  }
  return turns;
}

function readTurn(message: unknown, path: string): Turn {
  if (!isObject(message)) throw refuseField(path, "must be an object");
  const { role, content } = message;
  if (role !== "user" && role !== "assistant") {
    throw refuseField(`${path}.role`, 'must be "user" or "assistant"');
  }
  const read = role === "user" ? readUserBlock : readAssistantBlock;
  return { role, blocks: readBlocks(content, `${path}.content`, read) };
}

/** What of a conversation bounds its tokens, results included. */
export function measured(turns: readonly Turn[]): Pictures & { textLength: number } {
  const shown = turns.flatMap(({ blocks }) =>
    blocks.flatMap((block) => (block.type === "tool_result" ? block.content : block)),
  );
  const texts = shown.flatMap((block) => (block.type === "text" ? block.text : []));
  const urls = shown.flatMap((block) => (block.type === "image" ? block.url : []));
  return {
    textLength: lengthOf(texts),
    images: urls.length,
    imageBytes: lengthOf(urls.filter((url) => url.startsWith("data:"))),
  };
}

const lengthOf = (texts: readonly string[]) => texts.reduce((sum, text) => sum + text.length, 0);

/** The texts of a system prompt. @throws as `readTurns` */
export function readSystem(system: unknown): string[] {
  if (isAbsent(system)) return [];
  return readBlocks(system, "system", readTextBlock).map(({ text }) => text);
}

/** A text stands for a list with that one text. */
function readBlocks<Known>(
  content: unknown,
  path: string,
  read: (block: Json, path: string) => Known | undefined,
): (Known | TextBlock)[] {
  if (typeof content === "string") return [{ type: "text", text: content }];
  if (!Array.isArray(content)) throw refuseField(path, "must be a text or a list of blocks");
  return content.flatMap((block: unknown, i) => {
    const place = `${path}[${i}]`;
    if (!isObject(block)) throw refuseField(place, "must be an object");
    return read(block, place) ?? [];
  });
}

function readUserBlock(block: Json, path: string): Block {
  return block.type === "tool_result" ? readToolResult(block, path) : readShown(block, path);
}

function readAssistantBlock(block: Json, path: string): Block | undefined {
  if (THOUGHTS.has(String(block.type))) return undefined;
  if (block.type !== "tool_use") return readTextBlock(block, path);
  const { id, name, input } = block;
  if (!isObject(input)) throw refuseField(`${path}.input`, "must be an object");
  return { type: "tool_use", id: text(id, `${path}.id`), name: text(name, `${path}.name`), input };
}

function readToolResult(block: Json, path: string): ToolResultBlock {
  const { tool_use_id, content, is_error } = block;
  if (!isAbsent(is_error) && typeof is_error !== "boolean") {
    throw refuseField(`${path}.is_error`, "must be true or false");
  }
  return {
    type: "tool_result",
    id: text(tool_use_id, `${path}.tool_use_id`),
    content: isAbsent(content) ? [] : readBlocks(content, `${path}.content`, readShown),
    isError: is_error === true,
  };
}

function readShown(block: Json, path: string): TextBlock | ImageBlock {
  if (block.type === "image") return readImage(block.source, `${path}.source`);
  if (block.type === "document") return readDocument(block, path);
  return readTextBlock(block, path);
}

function readTextBlock(block: Json, path: string): TextBlock {
  if (block.type !== "text") throw refuseField(`${path}.type`, "is not supported here");
  if (typeof block.text !== "string") throw refuseField(`${path}.text`, "must be a text");
  return { type: "text", text: block.text };
}

function readImage(source: unknown, path: string): ImageBlock {
  if (!isObject(source)) throw refuseField(path, "must be an object");
  switch (source.type) {
    case "base64": {
      const type = text(source.media_type, `${path}.media_type`);
      if (!IMAGE.test(type)) throw refuseField(`${path}.media_type`, "must be that of an image");
      return { type: "image", url: `data:${type};base64,${text(source.data, `${path}.data`)}` };
    }
    case "url": {
      const url = text(source.url, `${path}.url`);
      if (!/^https?:\/\//i.test(url)) throw refuseField(`${path}.url`, "must be an http(s) URL");
      return { type: "image", url };
    }
    default:
      throw refuseField(`${path}.type`, "must be base64 or url");
  }
}

/** Only a document that is text costs what its bytes bound. */
function readDocument({ source, title }: Json, path: string): TextBlock {
  if (!isObject(source) || source.type !== "text") {
    throw refuseField(`${path}.source`, "only documents of plain text are supported");
  }
  const data = text(source.data, `${path}.source.data`);
  return { type: "text", text: typeof title === "string" ? `${title}\n${data}` : data };
}

function text(value: unknown, path: string): string {
  if (typeof value !== "string" || value === "") {
    throw refuseField(path, "must be a text that is not empty");
  }
  return value;
}
