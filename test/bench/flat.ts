import { readFileSync } from "node:fs";
import { newId } from "../../src/base/ids.js";
import { connect, only, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { fillHistory } from "./history.js";
import { type Figures, measure, openBooks } from "./holds.js";

export interface FlatOptions {
  /** Usage records and child keys of the database with a past. */
  records: number;
  children: number;
  concurrency: number;
  /** Of each slice, after a second to warm up. */
  seconds: number;
  emptyDatabase: () => Promise<string>;
}

const ROUNDS = 5;
const HOT = 1_000;
const MONTHS = 12;
const AMOUNT = 1_000n;
const COST = 600n;
const PLACES = ["empty", "hot keys", "all keys"] as const;

type Place = (typeof PLACES)[number];

/** An account with its child keys, and the engine of its database. */
interface Side {
  account: string;
  children: string[];
  holds: Holds;
  sql: Sql;
  /** Requests so far. */
  done: number;
  /** Holds of this turn that are still open. */
  open: string[];
}

interface Slice extends Figures {
  /** Microseconds of CPU time that the database's own processes took for a request. */
  cpu: number;
}

/**
 * What a hold, and a hold with its capture, cost after years against a first day: the same load in
 * turn on an empty database, on a thousand child keys of one with a past, and on all of its child
 * keys. The turns go there and back, so that whatever else the machine does meets all alike.
 */
export async function benchFlat(options: FlatOptions): Promise<object> {
  const { records, children, concurrency, seconds, emptyDatabase } = options;
  const [emptyUrl, oldUrl] = [await emptyDatabase(), await emptyDatabase()];
  console.log(`filling ${count(records)} usage records of ${count(children)} child keys`);
  const past = { records, children, accounts: 1, months: MONTHS, settled: true };
  const filled = await fillHistory(oldUrl, past, (line) => console.log(`  ${line}`));
  const [account = ""] = filled.accounts;
  const books = { account, children: await filled.childrenOf(account) };
  return {
    ...{ bench: "flat", records, children, concurrency },
    ...(await compare(emptyUrl, oldUrl, books, { seconds, concurrency })),
  };
}

/**
 * @param books of the database with a past: the account that is charged, and all its child keys
 */
export async function compare(
  emptyUrl: string,
  oldUrl: string,
  books: { account: string; children: string[] },
  load: Load,
): Promise<object> {
  const empty = connect(emptyUrl, { name: "flat", max: 6 });
  const old = connect(oldUrl, { name: "flat", max: 6 });
  const oldHolds = createHolds(old, { gateway: null });
  const sides: Record<Place, Side> = {
    empty: side(empty, createHolds(empty, { gateway: null }), await openBooks(empty)),
    "hot keys": side(old, oldHolds, { ...books, children: spread(books.children, HOT) }),
    "all keys": side(old, oldHolds, books),
  };
  const result: Record<string, object> = {};
  try {
    for (const what of ["cycles", "holds"] as const) {
      const before = await stateOf(old);
      result[what] = report(what, await takeTurns(sides, what, load));
      reportTables(before, await stateOf(old));
    }
    await Promise.all([sides.empty.holds.close(), oldHolds.close()]);
    return result;
  } finally {
    await Promise.all([empty.end(), old.end()]);
  }
}

const count = (n: number | bigint) => n.toLocaleString("en-US");

/** `n` of the values, evenly spread. */
const spread = (values: string[], n: number): string[] =>
  values.filter((_, i) => i % Math.ceil(values.length / n) === 0);

const side = (sql: Sql, holds: Holds, books: Pick<Side, "account" | "children">): Side => ({
  ...books,
  ...{ sql, holds, done: 0, open: [] },
});

type Load = { seconds: number; concurrency: number };

async function takeTurns(
  sides: Record<Place, Side>,
  what: "holds" | "cycles",
  load: Load,
): Promise<Record<Place, Slice[]>> {
  const slices: Record<Place, Slice[]> = { empty: [], "hot keys": [], "all keys": [] };
  for (const place of PLACES) await takeTurn(sides[place], what, load);
  for (let round = 0; round < ROUNDS; round++) {
    const order = round % 2 === 0 ? PLACES : PLACES.toReversed();
    for (const place of order) slices[place].push(await takeTurn(sides[place], what, load));
  }
  return slices;
}

async function takeTurn(side: Side, what: "holds" | "cycles", load: Load): Promise<Slice> {
  const [cpu, done] = [await cpuOf(side.sql), side.done];
  const figures = await measure(() => once(side, what), load);
  const spent = (await cpuOf(side.sql)) - cpu;
  const requests = side.done - done;
  await voidAll(side);
  return { ...figures, cpu: Math.round((spent * 1e6) / requests) };
}

/** As in real life, no turn meets the open holds of another: there are as many as requests that run. */
async function voidAll({ account, holds, open }: Side): Promise<void> {
  const ids = open.splice(0);
  for (let from = 0; from < ids.length; from += 1_000) {
    await Promise.all(ids.slice(from, from + 1_000).map((id) => holds.void({ account, id })));
  }
}

const TICKS_A_SECOND = 100;

/** Seconds of CPU time that the processes behind these connections have used so far. */
async function cpuOf(sql: Sql): Promise<number> {
  const rows = await sql<{ pid: number }[]>`
    select pid from pg_stat_activity
     where application_name = 'flat' and datname = current_database()`;
  let ticks = 0;
  for (const { pid } of rows) {
    const [, fields = ""] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ");
    const [user, system] = fields.split(" ").slice(11, 13).map(Number);
    ticks += (user ?? 0) + (system ?? 0);
  }
  return ticks / TICKS_A_SECOND;
}

async function once(side: Side, what: "holds" | "cycles"): Promise<void> {
  const { account, children, holds } = side;
  const id = newId();
  await holds.authorize({
    account,
    child: children[Math.floor(Math.random() * children.length)] ?? account,
    id,
    part: 0,
    amount: AMOUNT,
    floor: 0n,
    secretVersion: 1,
    seconds: 300,
    fingerprint: 1n,
    own: false,
    model: "bench",
    priceVersion: 1,
  });
  if (what === "cycles") {
    const usage = { inputTokens: 10n, outputTokens: 20n, estimated: false };
    await holds.capture({ account, id, cost: COST, fingerprint: 2n, own: false, ...usage });
  } else {
    side.open.push(id);
  }
  side.done += 1;
}

/** Medians of the slices, and how many times slower than the empty database's slice of the round. */
function report(what: string, slices: Record<Place, Slice[]>): object {
  console.log(`${what}:`);
  const lines = PLACES.map((place) => {
    const own = slices[place];
    const perSecond = median(own.map((slice) => slice.perSecond));
    const p50 = median(own.map((slice) => slice.p50));
    const p99 = median(own.map((slice) => slice.p99));
    const ratios = own.map((slice, i) => (slices.empty[i]?.perSecond ?? 0) / slice.perSecond);
    const slower = Number(median(ratios).toFixed(2));
    const cpu = median(own.map((slice) => slice.cpu));
    const cpuRatio = Number(
      median(own.map((it, i) => it.cpu / (slices.empty[i]?.cpu ?? 0))).toFixed(2),
    );
    const rate = count(perSecond).padStart(8);
    const times =
      place === "empty" ? "" : `   ${slower}x slower than empty, ${cpuRatio}x the CPU time`;
    console.log(
      `  ${place.padEnd(10)}${rate}/s   p50 ${p50} ms   p99 ${p99} ms   ${cpu} us of CPU${times}`,
    );
    return [place, { perSecond, p50, p99, slower, cpu, cpuRatio }] as const;
  });
  return Object.fromEntries(lines);
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

interface TableState {
  name: string;
  bytes: bigint;
  dead: bigint;
  updates: bigint;
  hot: bigint;
  vacuums: bigint;
}

/** The tables that each request changes, in the database with a past. */
async function stateOf(sql: Sql): Promise<TableState[]> {
  await sql`select pg_stat_force_next_flush()`;
  return await Promise.all(
    ["account", "child_key", "open_hold"].map(async (name) =>
      only(
        await sql<TableState[]>`
          select relname as name, pg_table_size(relid)::bigint as bytes, n_dead_tup as dead,
                 n_tup_upd as updates, n_tup_hot_upd as hot, autovacuum_count as vacuums
            from pg_stat_user_tables where relname = ${name}`,
      ),
    ),
  );
}

function reportTables(before: TableState[], after: TableState[]): void {
  for (const [i, table] of after.entries()) {
    const was = before[i] ?? table;
    const updates = table.updates - was.updates;
    const hot =
      updates === 0n ? "" : `, ${((table.hot - was.hot) * 100n) / updates} % of updates HOT`;
    console.log(
      `  ${table.name}: ${megabytes(was.bytes)} to ${megabytes(table.bytes)}, ` +
        `${count(table.dead)} dead rows${hot}, ${table.vacuums - was.vacuums} autovacuums`,
    );
  }
}

const megabytes = (bytes: bigint) => `${(Number(bytes) / 2 ** 20).toFixed(1)} MB`;
