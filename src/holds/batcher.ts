import { refuse } from "../base/errors.js";

interface Waiting<Item, Answer> {
  item: Item;
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

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
    let running: Promise<() => void> | undefined = start(takeBatch(), run);
    while (running) {
      const answer: () => void = await running;
      // The database works on the next batch while we work on the answers of this one.
      running = waiting.length > 0 ? start(takeBatch(), run) : undefined;
      answer();
    }
    draining = undefined;
  }

  return {
    call(item) {
      if (waiting.length >= depth) {
        return Promise.reject(refuse("busy", { retryAfter: 1, shouldRetry: true }));
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
