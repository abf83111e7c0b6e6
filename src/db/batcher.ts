import { refuse } from "../base/errors.js";
import { elapsed, SECOND } from "../base/time.js";

interface Waiting<Item, Answer> {
  item: Item;
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

/** From so many items on, what a batch costs apart from its items matters little. */
const LARGE = 64;

export interface Bounds<Item> {
  /** Items per batch: beyond about 1,024 only the latency grows. */
  limit: number;
  /** Calls that may wait; one more is refused as busy instead of being queued without end. */
  depth: number;
  /** Items with the same key never share a batch: the second sees what the first did. */
  keyOf: (item: Item) => string;
}

export interface Batcher<Item, Answer> {
  call(item: Item): Promise<Answer>;
  /** Resolves when nothing waits and nothing is in flight. */
  idle(): Promise<void>;
}

/**
 * Groups calls that arrive while a batch is in flight into the next one. There is no timer: an idle
 * lane answers at the latency of a single call, and a busy one grows its batches as fast as the
 * database slows down.
 *
 * @param run executes one batch; answers in the order of its items, an Error standing for a refused
 *   item
 */
export function createBatcher<Item, Answer>(
  run: (items: Item[]) => Promise<(Answer | Error)[]>,
  { limit, depth, keyOf }: Bounds<Item>,
): Batcher<Item, Answer> {
  let waiting: Waiting<Item, Answer>[] = [];
  let draining: Promise<void> | undefined;
  let startedAt = 0;
  let took = 0;

  /** Seconds until what waits is done, at the pace of the latest batch. */
  function retryAfter(): number {
    const batch = Math.max(took, elapsed() - startedAt);
    return Math.ceil((batch * (1 + waiting.length / limit)) / SECOND);
  }

  function next(): Promise<() => void> {
    startedAt = elapsed();
    return start(takeBatch(), run);
  }

  function takeBatch(): Waiting<Item, Answer>[] {
    const seen = new Set<string>();
    const batch: Waiting<Item, Answer>[] = [];
    const later: Waiting<Item, Answer>[] = [];
    for (const call of waiting) {
      const key = keyOf(call.item);
      const fits = batch.length < limit && !seen.has(key);
      seen.add(key);
      (fits ? batch : later).push(call);
    }
    waiting = later;
    return batch;
  }

  async function drain(): Promise<void> {
    // Callers that the same turn of the event loop brings belong in this batch.
    await new Promise(setImmediate);
    let running: Promise<() => void> | undefined = next();
    while (running) {
      const answer: () => void = await running;
      took = elapsed() - startedAt;
      // Those whom we answer call again: a small batch waits for them, and with a large one the
      // database works while we work on the answers.
      const early = waiting.length >= LARGE ? next() : undefined;
      answer();
      if (!early) await new Promise(setImmediate);
      running = early ?? (waiting.length > 0 ? next() : undefined);
    }
    draining = undefined;
  }

  return {
    call(item) {
      if (waiting.length >= depth) {
        return Promise.reject(refuse("busy", { retryAfter: retryAfter(), shouldRetry: true }));
      }
      return new Promise((resolve, reject) => {
        waiting.push({ item, resolve, reject });
        draining ??= drain();
      });
    },
    async idle() {
      while (draining) await draining;
    },
  };
}

/** Runs a batch. @returns how to hand its answers to those who wait for them; never rejects */
async function start<Item, Answer>(
  batch: Waiting<Item, Answer>[],
  run: (items: Item[]) => Promise<(Answer | Error)[]>,
): Promise<() => void> {
  try {
    const answers = await run(batch.map((call) => call.item));
    return () => {
      for (const [i, call] of batch.entries()) {
        const answer = answers[i];
        if (answer === undefined) call.reject(new Error("a batch left an item unanswered"));
        else if (answer instanceof Error) call.reject(answer);
        else call.resolve(answer);
      }
    };
  } catch (error) {
    return () => {
      for (const call of batch) call.reject(error);
    };
  }
}
