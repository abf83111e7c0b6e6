import { type Db, only } from "../db/sql.js";
import { listSetAside, type SetAside } from "../ledger/ledger.js";

/** What waits to be done, and the clock that decides. */
export interface Backlog {
  databaseTime: Date;
  openHolds: bigint;
  unsettledRecords: bigint;
  /** Of the oldest record, in whole seconds, accounts that are set aside left out. */
  settlementLagSeconds: bigint;
  accountsSetAside: SetAside[];
  outboxEntries: bigint;
  /** Age of the oldest that waits, in whole seconds. */
  outboxOldestSeconds: bigint;
  /** Given up: an operator has to look. */
  outboxSetAside: bigint;
  /** The newest that is done. */
  reconciliation: Reconciliation | null;
}

export interface Reconciliation {
  /** 2026-11-23 */
  day: string;
  finishedAt: Date;
  invariants: number;
  records: bigint;
  differences: number;
}

type Counts = Omit<Backlog, "accountsSetAside" | "reconciliation">;

const NAMED = 100;

export async function readBacklog(db: Db): Promise<Backlog> {
  const counts = only(
    await db<Counts[]>`
      select keytoll_clock() as "databaseTime",
             (select count(*) from open_hold where part = 0) as "openHolds",
             u.records as "unsettledRecords", u.oldest as "settlementLagSeconds",
             o.waiting as "outboxEntries", o.oldest as "outboxOldestSeconds",
             o.set_aside as "outboxSetAside"
        from (select coalesce(sum(a.usage_seq - a.settled_seq), 0)::bigint as records,
                     coalesce(greatest(0, max(extract(epoch from keytoll_clock() - (
                       select h.ended_at from ended_hold h
                        where h.account_id = a.id and h.usage_seq = a.settled_seq + 1
                          and not exists (select from settlement_set_aside s
                            where s.account_id = a.id and s.settled_at is null))))), 0)::bigint
                       as oldest
                from account a where a.usage_seq > a.settled_seq) u,
             (select count(*) filter (where not set_aside) as waiting,
                     count(*) filter (where set_aside) as set_aside,
                     coalesce(extract(epoch from keytoll_clock() - min(created_at)
                       filter (where not set_aside)), 0)::bigint as oldest
                from outbox) o`,
  );
  const [reconciliation = null] = await db<Reconciliation[]>`
    select day, finished_at as "finishedAt", invariants, records, differences
      from reconcile_run where finished_at is not null order by day desc limit 1`;
  return { ...counts, accountsSetAside: await listSetAside(db, null, NAMED), reconciliation };
}
