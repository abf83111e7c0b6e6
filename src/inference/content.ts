import { refuseField } from "../base/errors.js";
import { isAbsent, isObject, type Json } from "./values.js";

/** What a conversation has beside text. */
export interface Pictures {
  images: number;
  /** Bytes of the images that stand in the body itself, which are read as no text. */
  imageBytes: number;
}

interface Contents extends Pictures {
  /** Characters of its texts. */
  textLength: number;
}

/** A picture that stands in the body, in any of the forms that upstreams read. */
const DATA_URL = /^data:image\/[a-z0-9.+-]+;base64,/i;

/**
 * Checks the messages of a conversation, and counts its images: an image's few bytes of address may
 * cost thousands of tokens, so the bytes of the body are no bound for them.
 *
 * @throws invalid_request_error with the path of what is not understood
 */
export function readMessages(messages: unknown): Contents {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw refuseField("messages", "must be a list of at least one message");
  }
  const seen = { textLength: 0, images: 0, imageBytes: 0 };
  for (let i = 0; i < messages.length; i++) {
    const message: unknown = messages[i];
    if (!isObject(message)) throw refuseField(`messages[${i}]`, "must be an object");
    if (!isAbsent(message.audio)) throw refuseField(`messages[${i}].audio`, "is not supported");
    const { content } = message;
    if (typeof content === "string") seen.textLength += content.length;
    if (isAbsent(content) || typeof content === "string") continue;
    readParts(content, `messages[${i}].content`, seen);
  }
  return seen;
}

function readParts(content: unknown, path: string, seen: Contents): void {
  if (!Array.isArray(content)) throw refuseField(path, "must be a text or a list of parts");
  for (const [i, part] of content.entries()) {
    const at = `${path}[${i}]`;
    if (!isObject(part)) throw refuseField(at, "must be an object");
    if (part.type === "image_url") readImage(part, at, seen);
    else if (part.type !== "text" && part.type !== "refusal") {
      throw refuseField(at, "only parts of text and images are supported");
    } else if (typeof part.text === "string") seen.textLength += part.text.length;
  }
}

function readImage({ image_url: image }: Json, path: string, seen: Contents): void {
  const url = isObject(image) ? image.url : undefined;
  if (typeof url !== "string") throw refuseField(`${path}.image_url.url`, "must be a text");
  seen.images += 1;
  if (DATA_URL.test(url)) seen.imageBytes += url.length;
  else if (!/^https?:\/\//i.test(url)) {
    throw refuseField(`${path}.image_url.url`, "must be an http(s) or a base64 image data URL");
  }
}

/** @throws invalid_request_error where a tool is one that the upstream would run, at a cost */
export function checkTools(tools: unknown): void {
  if (isAbsent(tools)) return;
  if (!Array.isArray(tools)) throw refuseField("tools", "must be a list");
  for (const [i, tool] of tools.entries()) {
    const known = isObject(tool) && (tool.type === "function" || tool.type === "custom");
    if (!known) throw refuseField(`tools[${i}]`, "only functions are supported");
  }
}
