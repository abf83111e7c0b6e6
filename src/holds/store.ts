import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, only, type Sql } from "../db/sql.js";

/** One part of a hold as it stands in open_hold or ended_hold. */
export interface HoldPart {
  part: number;
  child_key_id: Id;
  amount: Ngonka;
  cost: Ngonka | null;
  outcome: "captured" | "voided" | "swept" | null;
  day: string;
  month: string;
  authorized_at: Date;
  deadline: Date | null;
  ended_at: Date | null;
  usage_seq: bigint | null;
  model: string | null;
  price_version: number | null;
  /** Of an open hold: the gateway whose request it is; null for a backend's own. */
  gateway_id: Id | null;
}

/**
 * All parts of a hold of this account, open or ended, first part first; none where there is no such
 * hold.
 */
export async function findHoldParts(db: Db, account: Id, id: Id): Promise<HoldPart[]> {
  return await db<HoldPart[]>`
    select part, child_key_id, amount, null::bigint as cost, null as outcome, day, month,
      authorized_at, deadline,
           null::timestamptz as ended_at, null::bigint as usage_seq, model, price_version,
             gateway_id
      from open_hold where account_id = ${account} and id = ${id}
    union all
    select part, child_key_id, amount, cost, outcome, day, month, authorized_at, null, ended_at,
      usage_seq,
           model, price_version, null
      from ended_hold where account_id = ${account} and id = ${id}
    order by part`;
}

/** Notes that a gateway lives. @returns the database's clock */
export async function renewLease(sql: Sql, gateway: Id): Promise<Date> {
  const { seen_at } = only(
    await sql<{ seen_at: Date }[]>`
      insert into gateway values (${gateway}, keytoll_clock(), keytoll_clock())
      on conflict (id) do update set seen_at = keytoll_clock()
      returning seen_at`,
  );
  return seen_at;
}

/** Ends up to `limit` holds that are past their deadline or whose gateway is gone. */
export async function sweepPage(
  sql: Sql,
  limit: number,
): Promise<{ captured: number; voided: number }> {
  return only(
    await sql<{ captured: number; voided: number }[]>`
      select captured, voided from sweep_holds(${limit})`,
  );
}
