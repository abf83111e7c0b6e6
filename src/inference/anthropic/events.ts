import type { StopReason } from "../chunks.js";
import type { Json } from "../values.js";
import { type Ending, newMessageId } from "./message.js";

/** A server-sent event in Anthropic's form: its name is the `type` of its data. */
const eventOf = (data: Json): Buffer =>
  Buffer.from(`event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`);

export const PING = eventOf({ type: "ping" });

/** The first event. Nothing is written yet, and the input is counted by us until it is known. */
export function messageStart(model: string, usage: Json): Buffer {
  const message = {
    ...{ id: newMessageId(), type: "message", role: "assistant", model },
    ...{ content: [], stop_reason: null, stop_sequence: null, usage },
  };
  return eventOf({ type: "message_start", message });
}

export const blockStart = (index: number, block: Json): Buffer =>
  eventOf({ type: "content_block_start", index, content_block: block });

export const blockDelta = (index: number, delta: Json): Buffer =>
  eventOf({ type: "content_block_delta", index, delta });

export const blockStop = (index: number): Buffer => eventOf({ type: "content_block_stop", index });

/**
 * The last events: why the message ended and what it cost, and that nothing follows.
 *
 * @param stop why it was we who ended it, in a field of our own
 */
export function messageEnd(ending: Ending, usage: Json, stop?: StopReason): Buffer {
  const cause = stop === undefined ? {} : { stop_cause: stop };
  return Buffer.concat([
    eventOf({ type: "message_delta", delta: ending, usage, ...cause }),
    eventOf({ type: "message_stop" }),
  ]);
}
