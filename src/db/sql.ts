import postgres from "postgres";

/** The pool: what slices take first. */
export type Sql = postgres.Sql<{ bigint: bigint }>;
/** A transaction of the pool. */
export type Tx = postgres.TransactionSql<{ bigint: bigint }>;
/** Either: used alike, so that slices compose in one transaction. */
export type Db = Sql | Tx;

export interface PoolOptions {
  /** Connections at the most. */
  max?: number;
  /** Shown in pg_stat_activity. */
  name: string;
}

/**
 * Opens a pool. bigint columns arrive as bigint, dates as they are written (`2026-11-23`), and
 * every session is UTC. Hashes are made of dates as ISO writes them, whatever the database prefers.
 */
export function connect(url: string, { max = 10, name }: PoolOptions): Sql {
  return postgres(url, {
    max,
    idle_timeout: 0,
    max_lifetime: null,
    connect_timeout: 10,
    backoff: (attempt: number) => Math.min(0.05 * 2 ** attempt, 1),
    onnotice: () => {},
    connection: { application_name: name, TimeZone: "UTC", DateStyle: "ISO" },
    types: {
      bigint: postgres.BigInt,
      date: { to: 1082, from: [1082], serialize: (x: string) => x, parse: (x: string) => x },
    },
  }) as Sql;
}

/** Runs `work` in one transaction; inside a transaction already, as a part of it. */
export async function inTransaction<T>(db: Db, work: (tx: Tx) => Promise<T>): Promise<T> {
  if ("begin" in db) return (await db.begin(work)) as T;
  return work(db);
}

/** The one row that a statement must have answered. */
export function only<Row>(rows: readonly Row[]): Row {
  const [row] = rows;
  if (row === undefined || rows.length > 1) throw new Error(`one row expected, not ${rows.length}`);
  return row;
}

/**
 * Locks accounts in the one order that everybody keeps, and tells each one's time, which never goes
 * back.
 */
export async function lockAccounts(
  tx: Tx,
  accounts: readonly string[],
): Promise<{ id: string; at: Date; status: string }[]> {
  return await tx<{ id: string; at: Date; status: string }[]>`
    select id, at, status from lock_accounts(${[...accounts].sort()}::uuid[])`;
}
