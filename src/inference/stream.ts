import { Refusal, refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Line } from "../base/line.js";
import type { Log } from "../base/log.js";
import { SECOND } from "../base/time.js";
import { askUpstream, noteCause } from "./ask.js";
import type { ChunkReader, StopReason } from "./chunks.js";
import { stopReasonOf } from "./cover.js";
import type { Asked, Kind } from "./kind.js";
import { createMeter, type Meter } from "./meter.js";
import { openPayment, type Payer, type Paying, type Payment } from "./payment.js";
import { createSseSplitter, type SseSplitter } from "./sse.js";
import type { Exchange } from "./upstream.js";
import { usageBody } from "./usage.js";

/**
 * Server-sent events as they may be sent, those of one read together. It must be iterated, to its
 * end or a `return`.
 */
export interface EventStream extends AsyncIterableIterator<Buffer, void, void> {
  return(): Promise<IteratorResult<Buffer, void>>;
}

/** How long the usage and the end may take once every answer has finished. */
const AFTERWORD = 10 * SECOND;
/** Bytes that a stream may have, whatever it says: some around, and some for each token. */
const MOST_AROUND = 16 * 1024 * 1024;
const MOST_PER_TOKEN = 16 * 1024;

interface Run {
  payment: Payment;
  exchange: Exchange;
  splitter: SseSplitter;
  reader: ChunkReader;
  meter: Meter;
  log: Log;
  /** Payloads that were read, from the place of the next one to take. */
  payloads: Buffer[];
  next: number;
  /** Bytes that may still come. */
  room: number;
  /** The upstream has sent all that it will. */
  ended: boolean;
  /** Nothing more is taken. */
  over: boolean;
  /** What it broke with. */
  error: unknown;
  /** Set where we have cut it; `stop` is undefined where it had all that was asked for. */
  cut: { stop: StopReason | undefined } | undefined;
  afterword: NodeJS.Timeout | undefined;
  settled: boolean;
}

/**
 * Runs a paid request as a stream. Resolves once the first event is there, so that whatever
 * goes wrong before is an ordinary refusal. The events that end it follow once the capture is
 * durable. A caller who hangs up (the line, or `return` on the stream) cuts the upstream at once
 * and pays for what was produced. So does one whose money ends: then the stream has a clean end.
 *
 * @param hold id of the hold that it opens; a new one when absent
 * @throws what `openPayment` refuses, and the reasons for an upstream that fails; from the stream
 *   itself: the reason why it was cut, after what was produced is paid for
 */
export async function stream<Request extends Asked>(
  paying: Paying,
  payer: Payer,
  kind: Kind<Request>,
  request: Request,
  line: Line,
  hold?: Id,
): Promise<EventStream> {
  const payment = await openPayment(paying, payer, kind.dialect, request, line, hold, true);
  const { log } = paying;
  let exchange: Exchange;
  try {
    exchange = await askUpstream(payment, kind, request, log);
  } catch (error) {
    await payment.void();
    throw error;
  }
  const most = payment.maxTokens * request.n;
  const meter = createMeter(payment.promptTokens, most, payment.cover);
  payment.cover?.onRefused(() => exchange.cancel());
  payment.producing(() => (meter.started ? meter.usage(false) : undefined));
  const run: Run = {
    ...{ payment, exchange, meter, log, splitter: createSseSplitter() },
    ...{ reader: kind.reader(request, meter), payloads: [], next: 0 },
    ...{ room: MOST_AROUND + most * MOST_PER_TOKEN, ended: false, over: false },
    ...{ error: undefined, cut: undefined, afterword: undefined, settled: false },
  };
  return begunWith(await step(run), run);
}

/** A stream whose first events were read already. */
function begunWith(first: Buffer | undefined, run: Run): EventStream {
  let ready = first;
  return {
    async next() {
      const value = ready ?? (await step(run));
      ready = undefined;
      return value === undefined ? { done: true, value } : { done: false, value };
    },
    async return() {
      if (!run.settled) await settle(run);
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

/** The next events, at last those that end it; undefined behind them. */
async function step(run: Run): Promise<Buffer | undefined> {
  if (run.settled) return undefined;
  return (await advance(run)) ?? (await settle(run));
}

/** What may be sent now; undefined once nothing more is taken. Notes how it ended in `run`. */
async function advance(run: Run): Promise<Buffer | undefined> {
  while (!run.over) {
    try {
      const isPaidFor = takePayloads(run);
      const events = run.reader.forward();
      if (events !== undefined) return events;
      await goOn(run, isPaidFor);
    } catch (error) {
      run.over = true;
      const stop = stopReasonOf(run.payment.cover?.refusal ?? error);
      if (stop === undefined) run.error = error;
      else cutAt(run, stop);
    }
  }
  // What came before a broken event was produced and is paid for, so it is delivered
  return run.reader.forward();
}

async function goOn(run: Run, isPaidFor: boolean): Promise<void> {
  const { payment, reader, meter } = run;
  if (!isPaidFor) await payment.cover?.more(payment.signal);
  else if (reader.done || run.ended) run.over = true;
  else if (meter.endless && !reader.finished) cutAt(run, undefined);
  else await read(run);
  if (run.over && !reader.finished && !run.cut) throw new Error("the stream ended early");
}

/** @returns false where what is held does not pay for the next one */
function takePayloads(run: Run): boolean {
  for (; run.next < run.payloads.length; run.next++) {
    const payload = run.payloads[run.next];
    if (payload !== undefined && !run.reader.take(payload)) return false;
  }
  return true;
}

async function read(run: Run): Promise<void> {
  const { exchange, splitter, reader } = run;
  if (reader.finished) run.afterword ??= setTimeout(() => exchange.cancel(), AFTERWORD);
  const pieces = await exchange.read();
  run.next = 0;
  run.ended = pieces === undefined;
  const last = run.ended ? splitter.end() : undefined;
  run.payloads = pieces?.flatMap((piece) => splitter.push(piece)) ?? (last ? [last] : []);
  for (const piece of pieces ?? []) run.room -= piece.length;
  if (run.room < 0) throw new Error("the stream is larger than any answer can be");
}

function cutAt(run: Run, stop: StopReason | undefined): void {
  run.over = true;
  if (!run.reader.finished) run.cut = { stop };
}

/** Ends upstream and hold, whatever has happened. @returns the events that end the stream */
async function settle(run: Run): Promise<Buffer> {
  const { payment, exchange, reader, meter, cut } = run;
  run.settled = true;
  clearTimeout(run.afterword);
  if (reader.done) exchange.discard();
  else exchange.cancel();
  // Once every answer has finished, a broken line behind it harms nobody
  const failure = run.error !== undefined && !reader.finished ? explain(run) : undefined;
  const usage = meter.usage(reader.finished);
  const produced = meter.started || reader.finished || cut !== undefined;
  const cost = produced ? await payment.capture(usage) : await payment.void();
  if (failure !== undefined) throw failure;
  const bill = usageBody({ usage, cost: cost ?? 0n, costFields: payment.costFields }, undefined);
  return cut === undefined ? reader.finale(bill) : reader.cut(bill, cut.stop);
}

function explain({ error, payment, exchange: { upstream }, log }: Run): unknown {
  noteCause(error, payment, upstream, log);
  if (payment.signal.aborted || error instanceof Refusal) return error;
  log.warn({ upstream, hold: payment.id, why: String(error) }, "broken stream");
  return refuse("model_unavailable");
}
