import type { Id } from "../../src/base/ids.js";
import type { Sql } from "../../src/db/sql.js";
import type { Books } from "../support/books.js";
import { changeChild } from "./account-rules.js";
import { authorize, end } from "./hold-rules.js";
import { newWorld } from "./lane.js";
import { at, type Micros, type World } from "./model.js";

/**
 * Takes what the database has on record of some accounts, puts it into the order of each account's
 * time, and lets the model go through it: every hold must have been allowed at its instant.
 */

interface Event {
  at: Micros;
  /** At one instant ends come before holds, and changes before both. */
  rank: number;
  name: string;
  /** @returns what the model says of it */
  apply(world: World): string;
  /** What it says where the record is right. */
  wanted: string;
}

export interface Replayed {
  events: number;
  problems: string[];
  held: Map<Id, bigint>;
  captured: Map<Id, bigint>;
  /** Voided or swept. */
  ended: Set<Id>;
}

const US = (column: string): string => `(extract(epoch from ${column}) * 1000000)::bigint::float8`;

/** @param books accounts with one child each, all of whose changes were made through the doors */
export async function replay(sql: Sql, books: readonly Books[]): Promise<Replayed> {
  const all: Replayed = {
    ...{ events: 0, problems: [], held: new Map(), captured: new Map() },
    ended: new Set(),
  };
  for (const { account, child } of books) {
    const events = [
      ...(await holdEvents(sql, account, all)),
      ...(await changeEvents(sql, child)),
      ...(await creditEvents(sql, account)),
    ].sort((a, b) => a.at - b.at || a.rank - b.rank);
    const world = emptyWorld();
    for (const event of events) {
      world.clock = event.at;
      const said = event.apply(world);
      if (said !== event.wanted) all.problems.push(`${event.name}: the model says ${said}`);
    }
    all.events += events.length;
  }
  return all;
}

/** One account with one child and nothing set. */
function emptyWorld(): World {
  const world = newWorld(0, Number.MAX_SAFE_INTEGER);
  Object.assign(at(world.children, 0), { daily: null, monthly: null, total: null });
  return world;
}

async function holdEvents(sql: Sql, account: Id, all: Replayed): Promise<Event[]> {
  const rows = await sql.unsafe(
    `select id, amount, ${US("authorized_at")} as held_at, null as ended_at, null as outcome, null::bigint as cost
       from open_hold where account_id = $1
     union all
     select id, amount, ${US("authorized_at")}, ${US("ended_at")}, outcome::text, cost
       from ended_hold where account_id = $1
     order by id`,
    [account],
  );
  return rows.flatMap((row, id): Event[] => {
    all.held.set(row.id, row.amount);
    const { amount, cost } = row;
    const ask = { account: 0, child: 0, id, part: 0, amount, floor: 0n, version: 0 };
    const held: Event = {
      at: row.held_at,
      rank: 2,
      name: `hold ${row.id}`,
      wanted: "held",
      apply: (world) =>
        authorize(world, { ...ask, print: 1n, seconds: 600, own: false }, row.held_at).word,
    };
    if (row.outcome === null) return [held];
    const captured = row.outcome === "captured";
    if (captured) all.captured.set(row.id, cost);
    else all.ended.add(row.id);
    const ended: Event = {
      at: row.ended_at,
      rank: 1,
      name: `end of hold ${row.id}`,
      wanted: captured ? "captured" : "voided",
      apply: (world) => {
        const how = captured ? "backend" : "void";
        return end(world, { account: 0, id, how, cost, print: 1n }, row.ended_at);
      },
    };
    return [held, ended];
  });
}

/** What the owner changed, as the audit trail has it, and the limits as they were kept. */
async function changeEvents(sql: Sql, child: Id): Promise<Event[]> {
  const limits = await sql.unsafe(
    `select ${US("since")} as at, limit_daily as daily, limit_monthly as monthly, limit_total as total
       from child_limit where child_key_id = $1`,
    [child],
  );
  const statuses = await sql.unsafe(
    `select ${US("at")} as at, change->>'status' as status from audit_event
      where subject = $1 and action = 'child_key.updated' and change ? 'status'`,
    [child],
  );
  const changed = (world: World, to: Parameters<typeof changeChild>[2]): string => {
    changeChild(world, 0, to);
    return "changed";
  };
  return [
    ...limits.map(({ at, daily, monthly, total }) => ({
      ...{ at, rank: 0, name: "limits", wanted: "changed" },
      apply: (world: World) => changed(world, { daily, monthly, total }),
    })),
    ...statuses.map(({ at, status }) => ({
      ...{ at, rank: 0, name: "status", wanted: "changed" },
      apply: (world: World) => changed(world, { status }),
    })),
  ];
}

async function creditEvents(sql: Sql, account: Id): Promise<Event[]> {
  const rows = await sql.unsafe(
    `select ${US("posted_at")} as at, amount, reference from transfer
      where credit_account = $1 and kind = 'credit'`,
    [account],
  );
  return rows.map(({ at, amount, reference }) => ({
    ...{ at, rank: 0, name: `credit ${reference}`, wanted: "paid" },
    apply(world) {
      const line = { kind: "credit", from: "deposits", to: "a0", amount, reference, at } as const;
      world.journal.push(line);
      return "paid";
    },
  }));
}
