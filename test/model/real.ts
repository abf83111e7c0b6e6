import { Refusal } from "../../src/base/errors.js";
import { type Id, newId } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { freshDatabase } from "../support/database.js";
import type { Micros, World } from "./model.js";
import { ACCOUNTS, accountOfChild, CHILDREN, IDS, MANAGERS, NOBODY } from "./steps.js";
import { MICROS } from "./visible.js";

/** The database that a script of steps runs on, with the clock in our hand. */

export interface Stage {
  sql: Sql;
  /** Connections of their own, for checks of all that is there. */
  books: Sql;
  setClock(at: Micros): Promise<void>;
  close(): Promise<void>;
}

/**
 * One connection does everything, so its own setting is the clock. It does not wait for the disk:
 * what a power failure would take is not what is tested here.
 */
export async function openStage(): Promise<Stage> {
  const database = await freshDatabase();
  const sql = connect(database.url, { name: "model", max: 1 });
  await sql.unsafe(MICROS);
  await sql.unsafe(`create or replace function keytoll_clock() returns timestamptz language sql
    volatile as $$ select coalesce(current_setting('test.clock', true)::timestamptz, clock_timestamp()) $$`);
  await sql`set synchronous_commit = off`;
  await sql`set plan_cache_mode = force_generic_plan`;
  const books = connect(database.url, { name: "model books", max: 2 });
  return {
    sql,
    books,
    async setClock(at) {
      const text = `${new Date(Math.floor(at / 1_000)).toISOString().slice(0, 19)}.${String(at % 1_000_000).padStart(6, "0")}Z`;
      await sql`select set_config('test.clock', ${text}, false)`;
    },
    async close() {
      await Promise.all([sql.end(), books.end()]);
      await database.drop();
    },
  };
}

/** The rows of one world, by the model's numbers. */
export interface Real {
  sql: Sql;
  holds: Holds;
  gateway: Id;
  accounts: Id[];
  managers: Id[];
  children: Id[];
  ids: Id[];
  /** What its references of top-ups begin with. */
  tag: Id;
  nameOf(id: Id): string;
  /** Up to so many items of a batch are called for one by one. */
  few: number;
  /** What the functions of holds decided since this was last emptied. */
  codes: { hold: number[]; end: number[] };
}

const HOUSE: [string, string][] = [
  ["00000000-0000-0000-0000-000000000001", "deposits"],
  ["00000000-0000-0000-0000-000000000002", "revenue"],
  ["00000000-0000-0000-0000-000000000003", "loss"],
  ["00000000-0000-0000-0000-000000000004", "upstream_cost"],
];

const ids = (count: number): Id[] => Array.from({ length: count }, newId);
const listed = (letter: string, of: Id[]): [Id, string][] =>
  of.map((id, i) => [id, `${letter}${i}`]);

/** Hold ids of several months, so that a batch meets several partitions. */
const holdIds = (): Id[] => {
  const day = 86_400_000;
  return ids(IDS).map((id, i) => {
    const shift = [0, -20 * day, 40 * day][i % 3] ?? 0;
    const time = (Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16) + shift).toString(16);
    const hex = time.padStart(12, "0");
    return `${hex.slice(0, 8)}-${hex.slice(8)}${id.slice(13)}`;
  });
};

/** Opens a world's accounts and keys at the model's clock. */
export async function openReal(stage: Stage, world: World, few: number): Promise<Real> {
  const { sql } = stage;
  const [tag = "", gateway = ""] = ids(2);
  const codes: Real["codes"] = { hold: [], end: [] };
  const [accounts, managers] = [ids(ACCOUNTS).sort(), ids(MANAGERS.length)];
  const [children, holds] = [ids(NOBODY + 1), holdIds()];
  const names = new Map([
    ...HOUSE,
    ...listed("a", accounts),
    ...listed("m", managers),
    ...listed("c", children),
    ...listed("h", holds),
    [tag, "w"],
  ]);
  await stage.setClock(world.clock);
  await insertAccounts(sql, accounts, tag);
  for (const [i, id] of managers.entries()) {
    await sql`
      insert into management_key (id, account_id, name, hint, created_at, updated_at)
      values (${id}, ${accounts[MANAGERS[i] ?? 0] ?? ""}, 'm', 'gm-', keytoll_clock(),
              keytoll_clock())`;
  }
  for (const [i, manager] of CHILDREN.entries()) {
    const { daily = null, monthly = null, total = null } = world.children[i] ?? {};
    const owned = { account: accounts[accountOfChild(i)] ?? "", manager: managers[manager] ?? "" };
    await sql`
      with child as (
        insert into child_key (id, account_id, management_key_id, name, hint, limit_daily,
                               limit_monthly, limit_total, day, month, created_at, updated_at)
        values (${children[i] ?? ""}, ${owned.account}, ${owned.manager}, 'c', 'gc-', ${daily},
                ${monthly}, ${total}, keytoll_clock()::date,
                date_trunc('month', keytoll_clock())::date, keytoll_clock(), keytoll_clock())
        returning *)
      insert into child_limit (child_key_id, since, limit_daily, limit_monthly, limit_total)
      select id, created_at, limit_daily, limit_monthly, limit_total from child`;
  }
  return {
    sql,
    holds: createHolds(overhearing(sql, codes), { gateway, lanes: 1, few }),
    gateway,
    few,
    accounts,
    managers,
    children,
    ids: holds,
    tag,
    codes,
    nameOf: (id) => names.get(id) ?? id,
  };
}

async function insertAccounts(sql: Sql, accounts: Id[], tag: Id): Promise<void> {
  await sql`
    with opened as (
      insert into account (id, last_at)
      select id, keytoll_clock() from unnest(${accounts}::uuid[]) id returning id)
    insert into owner (account_id, email, password_hash, referral_code)
    select id, id || '@example.com', '', id from opened, (select ${tag}::text) t`;
}

type Row = Record<string, string | null>;

/** The same pool, of which we hear what the batch functions decided. */
function overhearing(sql: Sql, codes: Real["codes"]): Sql {
  const heard: Sql["unsafe"] = (statement, parameters = [], options = {}) => {
    const query = sql.unsafe(statement, parameters, options);
    const answered = query.then.bind(query);
    const then: typeof query.then = (resolve, reject) =>
      answered((rows) => {
        hear(codes, statement, parameters as string[], rows as unknown as Row[]);
        return resolve ? resolve(rows) : (rows as never);
      }, reject);
    Reflect.set(query, "then", then);
    return query as never;
  };
  return new Proxy(sql, {
    get: (target, name) => (name === "unsafe" ? heard : Reflect.get(target, name)),
  });
}

/** Where all is as asked, the functions do not say so for each. */
function hear(codes: Real["codes"], statement: string, parameters: string[], rows: Row[]): void {
  const [row = {}] = rows;
  const listAt = (i: number): string[] => parameters[i]?.slice(1, -1).split(",") ?? [];
  const ended = (said: string | null | undefined, kinds: string[]) =>
    said?.split(",").map(Number) ?? kinds.map((kind) => (kind === "3" ? 2 : 1));
  const held = (said: string | null | undefined, ids: string[]) =>
    said?.split(",").map(Number) ?? ids.map(() => 1);
  if (statement.includes("end_and_authorize")) {
    codes.end.push(...ended(row.end_decisions, listAt(4)));
    codes.hold.push(...held(row.decisions, listAt(13)));
  } else if (statement.includes("end_holds")) {
    codes.end.push(...ended(row.decisions, listAt(3)));
  } else if (statement.includes("authorize_holds")) {
    codes.hold.push(...held(row.decisions, listAt(3)));
  } else {
    hearFew(codes, statement, parameters, rows);
  }
}

/** A call for each item, and an answer for each. */
function hearFew(codes: Real["codes"], statement: string, parameters: string[], rows: Row[]): void {
  for (const [i, call] of statement.split(" union all ").entries()) {
    const decided = rows[i]?.decisions;
    if (call.includes("authorize_hold(")) codes.hold.push(Number(decided ?? 1));
    const [, id = 0] = /end_hold\(\$[0-9]+,\$([0-9]+)/.exec(call) ?? [];
    if (id) codes.end.push(Number(decided ?? (parameters[Number(id)] === "3" ? 2 : 1)));
  }
}

/** What a door answered, or the reason of its refusal. */
export async function toldBy<T>(call: Promise<T>): Promise<T | Refusal> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
}
