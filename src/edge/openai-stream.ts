import type { StreamWords } from "./event-stream.js";

/** OpenAI's dialect of a stream: its clients skip comments, and raise an `error`. */
export const OPENAI_WORDS: StreamWords = {
  heartbeat: Buffer.from(": keep-alive\n\n"),
  error({ message, meaning, reason }) {
    const body = { error: { message, type: meaning.type ?? reason, code: reason, param: null } };
    return `data: ${JSON.stringify(body)}\n\n`;
  },
};
