import { type ChunkReader, DONE, parseChunk } from "../chunks.js";
import type { Meter } from "../meter.js";
import { tokensOf } from "../usage.js";
import { isObject, type Json } from "../values.js";
import { blockDelta, blockStart, blockStop, messageEnd, messageStart, PING } from "./events.js";
import {
  CUT,
  endingOf,
  isWritten,
  messagesUsage,
  newToolUseId,
  thinkingOf,
  UNSIGNED,
} from "./message.js";
import type { TranslatedRequest } from "./to-chat.js";

/**
 * Turns the chunks of a chat completion into the events of a message, one upstream event at once.
 * The chunk that ends the answer, and all after it, wait for `finale`.
 */
export function createTranslatedReader(
  { model, bytes, imageBytes = 0, stopSequences, thinking }: TranslatedRequest,
  meter: Meter,
): ChunkReader {
  const early = { prompt_tokens: tokensOf(bytes - imageBytes), completion_tokens: 0 };
  let ready: Buffer[] = [];
  const held: Buffer[] = [];
  const blocks = createBlocks((event) => (last === undefined ? ready : held).push(event));
  /** The choice that says why the answer ended. */
  let last: Json | undefined;
  let started = false;
  let done = false;

  const start = () => {
    if (!started) ready.push(messageStart(model, messagesUsage(early)), PING);
    started = true;
  };

  return {
    take(payload) {
      if (done) return true;
      if (payload.equals(DONE)) {
        done = true;
        return true;
      }
      const chunk = parseChunk(payload);
      meter.note(chunk);
      const { choices } = chunk;
      if (!Array.isArray(choices) || choices.length === 0) return true;
      if (!meter.count(Buffer.from(JSON.stringify(choices)))) return false;
      start();
      const [choice] = choices as unknown[];
      if (!isObject(choice)) return true;
      if (typeof choice.finish_reason === "string") last ??= choice;
      if (isObject(choice.delta)) blocks.take(choice.delta, thinking.shown);
      return true;
    },
    forward() {
      if (ready.length === 0) return undefined;
      const bytes = Buffer.concat(ready);
      ready = [];
      return bytes;
    },
    get finished() {
      return last !== undefined || done;
    },
    get done() {
      return done;
    },
    finale(usage) {
      start();
      const ending = endingOf(last ?? {}, blocks.calls, stopSequences);
      blocks.close();
      return Buffer.concat([...ready, ...held, messageEnd(ending, messagesUsage(usage))]);
    },
    cut(usage, stop) {
      start();
      blocks.close();
      return Buffer.concat([...ready, messageEnd(CUT, messagesUsage(usage), stop)]);
    },
  };
}

/** Which block a delta belongs to: one at a time is open, and each gets the next index. */
type Part = "text" | "thinking" | number;

/** Writes what the deltas of a chat completion bring as blocks, one after the other. */
function createBlocks(put: (event: Buffer) => void) {
  let open: Part | undefined;
  let next = 0;
  /** Index of the block of each call, by the call's own. */
  const calls = new Map<number, number>();

  const close = () => {
    if (open === undefined) return;
    if (open === "thinking") {
      put(blockDelta(next - 1, { type: "signature_delta", signature: UNSIGNED }));
    }
    put(blockStop(next - 1));
    open = undefined;
  };
  const enter = (part: Part, block: Json) => {
    if (open === part) return;
    close();
    put(blockStart(next, block));
    open = part;
    next += 1;
  };
  const write = (text: unknown) => {
    if (!isWritten(text)) return;
    enter("text", { type: "text", text: "" });
    put(blockDelta(next - 1, { type: "text_delta", text }));
  };
  const call = (delta: Json, at: number) => {
    const index = Number.isSafeInteger(delta.index) ? (delta.index as number) : at;
    const called = isObject(delta.function) ? delta.function : {};
    if (!calls.has(index)) {
      enter(index, { type: "tool_use", id: newToolUseId(), name: called.name, input: {} });
      calls.set(index, next - 1);
    }
    if (!isWritten(called.arguments)) return;
    const partial_json = called.arguments;
    put(blockDelta(calls.get(index) ?? 0, { type: "input_json_delta", partial_json }));
  };

  return {
    take(delta: Json, thinkingShown: boolean) {
      const thinking = thinkingOf(delta);
      if (thinkingShown && isWritten(thinking)) {
        enter("thinking", { type: "thinking", thinking: "", signature: "" });
        put(blockDelta(next - 1, { type: "thinking_delta", thinking }));
      }
      write(delta.content);
      write(delta.refusal);
      if (!Array.isArray(delta.tool_calls)) return;
      for (const [at, each] of delta.tool_calls.entries()) if (isObject(each)) call(each, at);
    },
    close,
    /** Whether any tool is called. */
    get calls() {
      return calls.size > 0;
    },
  };
}
