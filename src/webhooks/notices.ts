import { LRUCache } from "lru-cache";
import type { Id } from "../base/ids.js";
import type { Log } from "../base/log.js";
import { pause, SECOND } from "../base/time.js";
import { isOutage } from "../db/outage.js";
import type { Db, Sql } from "../db/sql.js";
import {
  anyEndpoint,
  type RefusalRow,
  type ResetRow,
  writeRefusals,
  writeResets,
  writeUsage,
} from "./notice-store.js";

/** Events in one transaction, which holds up their endpoints meanwhile. */
const AT_ONCE = 500;

/**
 * Records which marks of spend limits and of the balance the newest usage of an account has passed.
 * Called before that usage is posted: should the posting fail, it is looked at again, and each mark
 * is recorded once all the same.
 *
 * @param records how many are about to be posted, at the most
 */
export async function noteUsage(db: Db, account: Id, records: number): Promise<void> {
  await writeUsage(db, account, records);
}

/** Pages of children with what they used, by their ids; `last` is null after the last page. */
type ReadResets = (after: Id | null) => Promise<{ last: Id | null; children: ResetRow[] }>;

/**
 * Records the reset of each limit that was in use in a period that ended, once the period is summed
 * up. Doing it again records nothing more.
 *
 * @param period `ended` and `begins` are first days: 2026-11-22, 2026-11-23
 */
export async function noteResets(
  sql: Sql,
  period: { kind: "day" | "month"; ended: string; begins: string },
  read: ReadResets,
  onPage: (last: string) => void = () => {},
): Promise<void> {
  if (!(await anyEndpoint(sql))) return;
  for (let after: Id | null | undefined; after !== null; ) {
    const { last, children } = await read(after ?? null);
    for (let i = 0; i < children.length; i += AT_ONCE) {
      await writeResets(sql, children.slice(i, i + AT_ONCE), period);
    }
    if (last !== null) onPage(last);
    after = last;
  }
}

export interface RefusalNotes {
  /** Remembers that a request was refused; never waits. */
  note(refusal: RefusalRow): void;
  stop(): Promise<void>;
}

/** Refusals remembered as recorded, so that a client which insists costs nothing. */
const KNOWN = 10_000;
/** What waits to be recorded; more than that in a second is dropped, and comes again. */
const WAITING = 5_000;

/**
 * Records refusals for a limit or the balance soon after they happened, once for each child and
 * period. The requests themselves never wait for it.
 */
export function keepRefusals(sql: Sql, log: Log, every: number = SECOND): RefusalNotes {
  const known = new LRUCache<string, true>({ max: KNOWN, ttl: 60 * SECOND });
  const waiting = new Map<string, RefusalRow>();
  const stopping = new AbortController();

  async function flush(): Promise<void> {
    if (waiting.size === 0) return;
    const rows = [...waiting.values()];
    waiting.clear();
    try {
      await writeRefusals(sql, rows);
    } catch (error) {
      for (const row of rows) known.delete(nameOf(row));
      if (!isOutage(error)) log.error({ err: error }, "refusals could not be noted for webhooks");
    }
  }
  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      await pause(every, stopping.signal);
      await flush();
    }
  }
  const running = run();

  return {
    note(refusal) {
      const name = nameOf(refusal);
      if (known.has(name) || waiting.size >= WAITING) return;
      known.set(name, true);
      waiting.set(name, refusal);
    },
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

const nameOf = ({ child, limit, period }: RefusalRow): string => `${child}/${limit}/${period}`;
