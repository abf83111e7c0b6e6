import type { Db } from "../db/sql.js";

/** What a pass looks at: everything, or what came after a checkpoint. */
export interface Scope {
  /** From the first row that there is, whatever a checkpoint says. */
  whole: boolean;
  /** Its checkpoint; null where it starts from the first row. */
  from: Checkpoint | null;
  /**
   * Relation of the holds that ended in it, as ended_hold, and `through`: what was authorized until
   * then is in the sums it starts from.
   */
  ended: string;
  /**
   * Relation of the accounts' sums that it starts from: account_id, through, `judged` (later
   * authorizations are compared with their limits), records, gone_seq (usage up to this number may
   * have been taken off), post_no, chain, rolled_seq.
   */
  accounts: string;
  /** Relation of the child keys' sums that it starts from. */
  children: string;
  /** Roll-ups of later days are compared; `YYYY-MM-DD` or `-infinity`. */
  rolledDay: string;
  /** Ended holds in it. */
  holds: bigint;
  /** Usage records in it. */
  records: bigint;
}

export interface Checkpoint {
  no: bigint;
  takenAt: Date;
  /** ISO date: roll-ups of days up to here are compared. */
  rolledDay: string;
  idFloor: string;
  /** Ended holds over all passes. */
  holds: bigint;
  /** Hex. */
  digest: string;
}

export interface Invariant {
  no: number;
  name: string;
  /** Answers one row with counts; the column's name is what was counted. */
  count: (tx: Db, scope: Scope) => Promise<readonly Record<string, unknown>[]>;
  /** Answers a row with `problem` for each violation. */
  find: (tx: Db, scope: Scope) => Promise<readonly { problem: string }[]>;
}

/** Most violations that are named per invariant. */
export const NAMED = 20;

export type Problems = { problem: string }[];

/** Open holds, as if they were part of `ended`. */
export const openHolds = ({ accounts }: Scope): string => `
  (select o.account_id, o.id, o.part, o.child_key_id, o.amount, null::bigint as cost, o.day,
          o.month, o.authorized_at, null::timestamptz as ended_at,
          coalesce(b.through, '-infinity') as through, coalesce(b.judged, '-infinity') as judged
     from open_hold o left join ${accounts} b on b.account_id = o.account_id)`;

/** All holds of a pass, open and ended, as one relation. */
export const allHolds = (scope: Scope): string => `
  (select * from ${openHolds(scope)} o
   union all
   select e.account_id, e.id, e.part, e.child_key_id, e.amount, e.cost, e.day, e.month,
          e.authorized_at, e.ended_at, e.through, e.judged
     from ${scope.ended} e)`;
