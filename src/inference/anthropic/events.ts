import type { Json } from "../parameters.js";
import { type Ending, newMessageId } from "./message.js";

/** A server-sent event in Anthropic's form: its name is the `type` of its data. */
export const eventOf = (data: Json): Buffer =>
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

/** The last events: why the message ended and what it cost, and that nothing follows. */
export const messageEnd = (ending: Ending, usage: Json): Buffer =>
  Buffer.concat([
    eventOf({ type: "message_delta", delta: ending, usage }),
    eventOf({ type: "message_stop" }),
  ]);
