import type { Tx } from "../db/sql.js";

export interface Invariant {
  no: number;
  name: string;
  /** Answers one row with counts; the column's name is what was counted. */
  count: (tx: Tx) => Promise<readonly Record<string, unknown>[]>;
  /** Answers a row with `problem` for each violation. */
  find: (tx: Tx) => Promise<readonly { problem: string }[]>;
}

/** Most violations that are named per invariant. */
export const NAMED = 20;

export type Problems = { problem: string }[];

/** All holds, open and ended, as one relation. */
export const ALL_HOLDS = `
  (select account_id, id, part, child_key_id, amount, null::bigint as cost, day, month,
    authorized_at, null::timestamptz as ended_at
     from open_hold
   union all
   select account_id, id, part, child_key_id, amount, cost, day, month, authorized_at, ended_at
     from ended_hold)`;
