import type { Id } from "../base/ids.js";
import type { Db } from "../db/sql.js";

/** Records what the account's newest usage means to its limits and balance. */
export async function writeUsage(db: Db, account: Id, records: number): Promise<void> {
  await db`select note_usage(${account}, ${records})`;
}

export interface RefusalRow {
  child: Id;
  limit: "daily" | "monthly" | "total" | "balance";
  /** 2026-11-23, 2026-11 or total. */
  period: string;
  /** Ngonka that the request needed. */
  wanted: bigint;
}

export async function writeRefusals(db: Db, rows: readonly RefusalRow[]): Promise<void> {
  await db`
    select note_refusals(${rows.map((it) => it.child)}::uuid[], ${rows.map((it) => it.limit)}::text[],
      ${rows.map((it) => it.period)}::text[],
      ${rows.map((it) => it.wanted.toString())}::bigint[])`;
}

/** True where anybody has an endpoint at all. */
export async function anyEndpoint(db: Db): Promise<boolean> {
  const rows = await db`select from webhook_endpoint where status <> 'deleted' limit 1`;
  return rows.length > 0;
}

/** What was used of a child's limit in the period that ended. */
export interface ResetRow {
  child: Id;
  /** Ngonka. */
  used: bigint;
  requests: bigint;
}

export async function writeResets(
  db: Db,
  rows: readonly ResetRow[],
  { kind, ended, begins }: { kind: "day" | "month"; ended: string; begins: string },
): Promise<void> {
  await db`
    select note_resets(${rows.map((it) => it.child)}::uuid[],
      ${rows.map((it) => it.used.toString())}::bigint[],
      ${rows.map((it) => it.requests.toString())}::bigint[], ${kind}, ${ended}, ${begins})`;
}
