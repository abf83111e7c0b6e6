import { refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import { SECOND } from "../base/time.js";
import { type Batcher, createBatcher } from "../db/batcher.js";
import { isOutage, withPatience } from "../db/outage.js";
import type { Sql } from "../db/sql.js";
import {
  authorizeHolds,
  END_KINDS,
  type EndAnswers,
  type EndItem,
  endAndAuthorize,
  endHolds,
  extendHolds,
} from "./batch-store.js";
import { readAuthorized, readCaptured, readVoided } from "./decisions.js";
import { type Item, moveFew } from "./few-store.js";
import type { Authorized, Capture, Captured, Extension, HoldRequest, Holds } from "./holds.js";
import { withPartitions } from "./partitions.js";

export interface EngineOptions {
  /**
   * Who holds are opened for when this process runs the request itself; null where it runs none.
   */
  gateway: Id | null;
  /**
   * Lanes by account: batches of different lanes run side by side, each on a connection of its own.
   */
  lanes?: number;
  /** Items per batch. */
  limit?: number;
  /** Calls that may wait in one lane. */
  depth?: number;
  /** Up to so many items, a call for each takes less than the plans of a batch do. */
  few?: number;
}

/**
 * How long a batch waits for a lost database. Those who ask for a hold then learn that we are not
 * ready.
 */
const PATIENCE = 5 * SECOND;

type Ended = Captured | { endedAt: Date };
type Answer = Authorized | Ended;

/**
 * The money core over a pool of connections (two a lane: one for holds and captures, one for
 * deadlines).
 */
export function createHolds(
  sql: Sql,
  { gateway, lanes = 2, limit = 1_024, depth = 20_000, few = 4 }: EngineOptions,
): Holds {
  // Both kinds share their batches, and so their flushes
  const move = (items: readonly Item[]) =>
    items.length <= few ? runFew(sql, items, gateway) : runBatch(sql, items, gateway);
  const movers = laneset(lanes, () =>
    createBatcher<Item, Answer>(
      durable(PATIENCE, (items) => withPartitions(sql, () => move(items))),
      { limit, depth, keyOf: (item) => keyOf("end" in item ? item.end : item.authorize) },
    ),
  );
  const extenders = laneset(lanes, () =>
    createBatcher<Extension, { deadline: Date }>(
      durable(PATIENCE, async (items) => (await extendHolds(sql, items)).map(readDeadline)),
      { limit, depth, keyOf },
    ),
  );
  const end = (item: EndItem) => movers.of(item.account).call({ end: item });

  return {
    authorize: (request) =>
      movers.of(request.account).call({ authorize: request }) as Promise<Authorized>,
    capture: (capture) => end(toEnd(capture)) as Promise<Captured>,
    void: ({ account, id }) => end(toVoid(account, id)) as Promise<Ended>,
    extend: (extension) => extenders.of(extension.account).call(extension),
    async close() {
      await Promise.all([movers.idle(), extenders.idle()]);
    },
  };
}

const keyOf = ({ account, id }: { account: Id; id: Id }): string => account + id;

/** Runs what one lane has gathered as one statement, and so one transaction. */
async function runBatch(
  sql: Sql,
  items: readonly Item[],
  gateway: Id | null,
): Promise<(Answer | Error)[]> {
  const ends: EndItem[] = [];
  const requests: HoldRequest[] = [];
  for (const item of items) {
    if ("end" in item) ends.push(item.end);
    else requests.push(item.authorize);
  }
  const { ended, authorized } = await moveBatch(sql, ends, requests, gateway);
  let [nextEnd, nextRequest] = [0, 0];
  return items.map((item) =>
    "end" in item ? (ended[nextEnd++] ?? lost()) : (authorized[nextRequest++] ?? lost()),
  );
}

/** Runs a few items likewise, each by a call of its own. */
async function runFew(
  sql: Sql,
  items: readonly Item[],
  gateway: Id | null,
): Promise<(Answer | Error)[]> {
  const answers = await moveFew(sql, items, gateway);
  return items.map((item, i) => {
    const answer = answers[i];
    if (answer && "end" in item && "ended" in answer) {
      return readEnded([item.end], answer.ended)[0] ?? lost();
    }
    if (answer && "authorize" in item && "authorized" in answer) {
      return readAuthorized([item.authorize], answer.authorized)[0] ?? lost();
    }
    return lost();
  });
}

const lost = () => new Error("the database left an item of a batch unanswered");

async function moveBatch(sql: Sql, ends: EndItem[], requests: HoldRequest[], gateway: Id | null) {
  if (requests.length === 0) {
    return { ended: readEnded(ends, await endHolds(sql, ends)), authorized: [] };
  }
  if (ends.length === 0) {
    const answers = await authorizeHolds(sql, requests, gateway);
    return { ended: [], authorized: readAuthorized(requests, answers) };
  }
  const answers = await endAndAuthorize(sql, ends, requests, gateway);
  return {
    ended: readEnded(ends, answers.ended),
    authorized: readAuthorized(requests, answers.authorized),
  };
}

const readEnded = (items: readonly EndItem[], answers: EndAnswers): (Ended | Error)[] =>
  items.map((item, i) =>
    item.kind === END_KINDS.void ? readVoided(answers, i) : readCaptured(item, answers, i),
  );

/**
 * Runs a batch until its outcome is known. Where a batch fails for another reason than an outage,
 * its halves run instead, and theirs, until a bad item is alone. The ids make all of that safe.
 */
function durable<Item, Answer>(
  patience: number,
  run: (items: Item[]) => Promise<(Answer | Error)[]>,
): (items: Item[]) => Promise<(Answer | Error)[]> {
  return async function isolating(items) {
    try {
      return await withPatience(patience, () => run(items));
    } catch (error) {
      if (isOutage(error)) throw refuse("not_ready", { retryAfter: 1, shouldRetry: true });
      if (items.length === 1) throw error;
    }
    const middle = Math.ceil(items.length / 2);
    const answers: (Answer | Error)[] = [];
    for (const half of [items.slice(0, middle), items.slice(middle)]) {
      answers.push(
        ...(await isolating(half).catch((error: unknown) => half.map(() => asError(error)))),
      );
    }
    return answers;
  };
}

const asError = (error: unknown): Error =>
  error instanceof Error ? error : new Error(String(error));

function laneset<Item, Answer>(count: number, create: () => Batcher<Item, Answer>) {
  const lanes = Array.from({ length: count }, create);
  return {
    of(account: Id): Batcher<Item, Answer> {
      const lane = lanes[Number.parseInt(account.slice(-4), 16) % count];
      if (!lane) throw new Error("no lanes");
      return lane;
    },
    async idle(): Promise<void> {
      await Promise.all(lanes.map((lane) => lane.idle()));
    },
  };
}

/** Field by field: a spread with more behind it takes microseconds. */
const toEnd = (capture: Capture): EndItem => ({
  account: capture.account,
  id: capture.id,
  cost: capture.cost,
  inputTokens: capture.inputTokens,
  outputTokens: capture.outputTokens,
  estimated: capture.estimated,
  fingerprint: capture.fingerprint,
  kind: capture.own ? END_KINDS.captureByGateway : END_KINDS.captureByBackend,
});

const toVoid = (account: Id, id: Id): EndItem => ({
  account,
  id,
  cost: 0n,
  inputTokens: null,
  outputTokens: null,
  estimated: false,
  fingerprint: 0n,
  kind: END_KINDS.void,
});

function readDeadline(micros: string): { deadline: Date } | Error {
  return micros === "" ? refuse("hold_ended") : { deadline: new Date(Number(micros) / 1_000) };
}
