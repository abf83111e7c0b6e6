import { type ChunkReader, parseChunk } from "../chunks.js";
import type { Meter } from "../meter.js";
import { reportedUsage, tokensOf } from "../usage.js";
import { isObject, type Json } from "../values.js";
import { blockDelta, blockStart, blockStop, messageEnd, messageStart, PING } from "./events.js";
import { CUT, type Ending, messagesUsage } from "./message.js";
import { cachedOf, endingOf, reportOf, shownBlock, shownDelta } from "./native-answer.js";
import type { MessagesRequest } from "./request.js";

/**
 * Passes the events of a message on, each built anew from what callers may see, under an id and a
 * bill of ours. Input is reported at the start, output at the end; why the message ended, and all
 * after it, waits for `finale`.
 */
export function createNativeReader(request: MessagesRequest, meter: Meter): ChunkReader {
  const { model, bytes, imageBytes = 0, stopSequences } = request;
  const report = createReport();
  let ready: Buffer[] = [];
  let ending: Ending | undefined;
  let started = false;
  let done = false;
  const blocks = createBlocks((event) => ready.push(event));

  const start = () => {
    if (started) return;
    const prompt_tokens = Number(report.usage()?.inputTokens ?? tokensOf(bytes - imageBytes));
    const early = { prompt_tokens, completion_tokens: 0 };
    ready.push(messageStart(model, messagesUsage(early, report.cached())));
    started = true;
  };
  const begin = ({ message }: Json) => {
    report.learn(isObject(message) ? message.usage : undefined);
    const early = report.usage();
    if (early !== undefined) meter.noteInput(early.inputTokens);
    start();
  };
  const end = ({ usage, delta }: Json) => {
    if (report.learn(usage)) meter.note({ usage: report.said() });
    if (isObject(delta)) ending ??= endingOf(delta, stopSequences);
  };
  /** @returns false where the meter does not cover it */
  const takeEvent = (event: Json): boolean => {
    const carried = carriedBy(event);
    if (carried !== undefined && !meter.count(Buffer.from(JSON.stringify(carried)))) return false;
    if (event.type === "message_start") begin(event);
    else if (event.type === "message_delta") end(event);
    else if (event.type === "message_stop") done = true;
    else {
      start();
      blocks.take(event);
    }
    return true;
  };

  return {
    take: (payload) => done || takeEvent(parseChunk(payload)),
    forward() {
      if (ready.length === 0) return undefined;
      const events = Buffer.concat(ready);
      ready = [];
      return events;
    },
    get finished() {
      return ending !== undefined || done;
    },
    get done() {
      return done;
    },
    finale(usage) {
      start();
      blocks.close();
      const end = ending ?? endingOf({}, stopSequences);
      return Buffer.concat([...ready, messageEnd(end, messagesUsage(usage, report.cached()))]);
    },
    cut(usage, stop) {
      start();
      blocks.close();
      return Buffer.concat([
        ...ready,
        messageEnd(CUT, messagesUsage(usage, report.cached()), stop),
      ]);
    },
  };
}

/** What the model wrote in an event; undefined for one that brings nothing. */
function carriedBy({ type, content_block, delta }: Json): unknown {
  switch (type) {
    case "message_start":
      return "";
    case "content_block_start":
      return isObject(content_block) ? (content_block.name ?? "") : undefined;
    case "content_block_delta":
      return isObject(delta) ? (delta.text ?? delta.thinking ?? delta.partial_json) : undefined;
    default:
      return undefined;
  }
}

/** Usage as far as it was reported: figures that come again are totals, and replace those before. */
function createReport() {
  let usage: Json = {};
  const said = () => reportOf(usage);
  const valid = () => reportedUsage({ usage: said() });
  return {
    /** @returns whether it reports what was written */
    learn(reported: unknown): boolean {
      if (!isObject(reported)) return false;
      const told = Object.entries(reported).filter(([, value]) => value !== null);
      usage = { ...usage, ...Object.fromEntries(told) };
      return typeof reported.output_tokens === "number";
    },
    said,
    usage: valid,
    cached: () => (valid() === undefined ? undefined : cachedOf(usage)),
  };
}

/** Writes blocks anew as their events come, one after the other. */
function createBlocks(put: (event: Buffer) => void) {
  let open = false;
  let next = 0;
  const close = () => {
    if (open) put(blockStop(next - 1));
    open = false;
  };
  return {
    take({ type, content_block, delta }: Json) {
      if (type === "ping") put(PING);
      if (type === "content_block_stop") close();
      if (type === "content_block_start" && isObject(content_block)) {
        close();
        put(blockStart(next, shownBlock(content_block)));
        open = true;
        next += 1;
      }
      if (type !== "content_block_delta" || !isObject(delta) || !open) return;
      const shown = shownDelta(delta);
      if (shown !== undefined) put(blockDelta(next - 1, shown));
    },
    close,
  };
}
