import { Refusal, refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Log } from "../base/log.js";
import type { Ngonka } from "../base/money.js";
import { askUpstream, noteCause } from "./ask.js";
import type { ChunkReader } from "./chunks.js";
import type { Asked, Kind } from "./kind.js";
import { createMeter, type Meter } from "./meter.js";
import { openPayment, type Payer, type Paying, type Payment } from "./payment.js";
import { createSseSplitter } from "./sse.js";
import type { Exchange } from "./upstream.js";
import { tokensOf, usageBody } from "./usage.js";

/**
 * Server-sent events as they may be sent, those of one read together. It must be iterated, to its
 * end or a `return`.
 */
export type EventStream = AsyncGenerator<Buffer, void, void>;

interface Run {
  payment: Payment;
  exchange: Exchange;
  reader: ChunkReader;
  meter: Meter;
  log: Log;
}

/**
 * Runs a paid request as a stream. Resolves once the first event is there, so that whatever
 * goes wrong before is an ordinary refusal. The events that end it follow once the capture is
 * durable. A caller who hangs up (the line, or `return` on the stream) cuts the upstream at once
 * and pays for what was produced.
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
  line: AbortController,
  hold?: Id,
): Promise<EventStream> {
  const payment = await openPayment(paying, payer, kind.dialect, request, line, hold);
  const { log } = paying;
  let exchange: Exchange;
  try {
    exchange = await askUpstream(payment, kind, request, log);
  } catch (error) {
    await payment.void();
    throw error;
  }
  const meter = createMeter(tokensOf(request.bytes), payment.maxTokens * request.n);
  payment.producing(() => (meter.started ? meter.usage(false) : undefined));
  const reader = kind.reader(request, meter);
  const events = run({ payment, exchange, reader, meter, log });
  return resume(await events.next(), events);
}

async function* run({ payment, exchange, reader, meter, log }: Run): EventStream {
  let failure: unknown;
  let usage = meter.usage(false);
  let cost: Ngonka | undefined;
  try {
    yield* forward(exchange, reader);
    if (!reader.finished) throw new Error("the upstream's stream ended early");
  } catch (error) {
    // Once every answer has finished, a broken line behind it harms nobody
    if (!reader.finished) failure = explain(error, payment, exchange.upstream, log);
  } finally {
    if (reader.done) exchange.discard();
    else exchange.cancel();
    usage = meter.usage(reader.finished);
    if (meter.started || reader.finished) cost = await payment.capture(usage);
    else await payment.void();
  }
  if (failure !== undefined) throw failure;
  yield reader.finale(usageBody(usage, cost ?? 0n, undefined));
}

async function* forward(exchange: Exchange, reader: ChunkReader): EventStream {
  const splitter = createSseSplitter();
  while (!reader.done) {
    const pieces = await exchange.read();
    const last = pieces === undefined ? splitter.end() : undefined;
    const payloads = pieces?.flatMap((piece) => splitter.push(piece)) ?? (last ? [last] : []);
    try {
      for (const payload of payloads) reader.take(payload);
    } finally {
      // What came before a broken event was produced and is paid for, so it is delivered
      const events = reader.forward();
      if (events !== undefined) yield events;
    }
    if (pieces === undefined) return;
  }
}

function explain(error: unknown, payment: Payment, upstream: string, log: Log): unknown {
  noteCause(error, payment, upstream, log);
  if (payment.signal.aborted || error instanceof Refusal) return error;
  log.warn({ upstream, hold: payment.id, why: String(error) }, "broken stream");
  return refuse("model_unavailable");
}

/** A stream whose first event was read already. */
async function* resume(first: IteratorResult<Buffer, void>, rest: EventStream): EventStream {
  try {
    if (first.done) return;
    yield first.value;
    yield* rest;
  } finally {
    await rest.return();
  }
}
