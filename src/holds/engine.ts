import { Refusal, refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import { MINUTE, SECOND } from "../base/time.js";
import { isOutage, withPatience } from "../db/outage.js";
import type { Sql } from "../db/sql.js";
import { type Batcher, createBatcher } from "./batcher.js";
import { readAuthorized, readCaptured, readVoided } from "./decisions.js";
import type { Authorized, Capture, Captured, Extension, HoldRequest, Holds } from "./holds.js";
import { authorizeHolds, END_KINDS, type EndItem, endHolds, extendHolds } from "./store.js";

export interface EngineOptions {
  /** Who holds are opened for when this process runs the request itself; null where it runs none. */
  gateway: Id | null;
  /** Lanes by account: batches of different lanes run side by side, each on a connection of its own. */
  lanes?: number;
  /** Items per batch. */
  limit?: number;
  /** Calls that may wait in one lane. */
  depth?: number;
}

/** How long work waits for a lost database, in milliseconds. Finished work waits longest: it must be paid. */
const PATIENCE = { authorize: 5 * SECOND, end: MINUTE, extend: 5 * SECOND };

type Ended = Captured | { endedAt: Date };

/**
 * The money core over a pool of connections (at least 3 a lane, so that authorize, end and extend overlap).
 */
export function createHolds(
  sql: Sql,
  { gateway, lanes = 2, limit = 1_024, depth = 20_000 }: EngineOptions,
): Holds {
  const keyOf = (item: { account: Id; id: Id }) => `${item.account}${item.id}`;
  const bounds = { limit, depth, keyOf };
  const authorizers = laneset(lanes, () =>
    createBatcher<HoldRequest, Authorized>(
      durable(PATIENCE.authorize, async (items) =>
        readAuthorized(items, await authorizeHolds(sql, items, gateway)),
      ),
      bounds,
    ),
  );
  const enders = laneset(lanes, () =>
    createBatcher<EndItem, Ended>(
      durable(PATIENCE.end, async (items) => {
        const answers = await endHolds(sql, items);
        return items.map((item, i) =>
          item.kind === END_KINDS.void ? readVoided(answers, i) : readCaptured(answers, i),
        );
      }),
      bounds,
    ),
  );
  const extenders = laneset(lanes, () =>
    createBatcher<Extension, { deadline: Date }>(
      durable(PATIENCE.extend, async (items) => (await extendHolds(sql, items)).map(readDeadline)),
      bounds,
    ),
  );

  return {
    authorize: (request) => authorizers.of(request.account).call(request),
    capture: (capture) => enders.of(capture.account).call(toEnd(capture)) as Promise<Captured>,
    void: ({ account, id }) => enders.of(account).call(toVoid(account, id)),
    extend: (extension) => extenders.of(extension.account).call(extension),
    async close() {
      await Promise.all([authorizers.idle(), enders.idle(), extenders.idle()]);
    },
  };
}

/**
 * Runs a batch until its outcome is known. Where a batch fails for another reason than an outage, its items run one
 * by one, so that a bad one harms no other. The ids make both safe.
 */
function durable<Item, Answer>(
  patience: number,
  run: (items: Item[]) => Promise<(Answer | Error)[]>,
): (items: Item[]) => Promise<(Answer | Error)[]> {
  const known = async (items: Item[]): Promise<(Answer | Error)[]> => {
    try {
      return await withPatience(patience, () => run(items));
    } catch (error) {
      if (isOutage(error)) throw refuse("not_ready", { retryAfter: 1, shouldRetry: true });
      throw error;
    }
  };
  return async (items) => {
    try {
      return await known(items);
    } catch (error) {
      if (error instanceof Refusal || items.length === 1) throw error;
      return await Promise.all(
        items.map(async (item) => (await known([item]).catch(asAnswer))[0] ?? new Error("lost")),
      );
    }
  };
}

const asAnswer = (error: unknown): Error[] => [
  error instanceof Error ? error : new Error(String(error)),
];

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

function toEnd({ own, ...capture }: Capture): EndItem {
  return { ...capture, kind: own ? END_KINDS.captureByGateway : END_KINDS.captureByBackend };
}

function toVoid(account: Id, id: Id): EndItem {
  const nothing = { cost: 0n, inputTokens: null, outputTokens: null, estimated: false };
  return { account, id, ...nothing, fingerprint: 0n, kind: END_KINDS.void };
}

function readDeadline(micros: string): { deadline: Date } | Error {
  return micros === "" ? refuse("hold_ended") : { deadline: new Date(Number(micros) / 1_000) };
}
