import { refuseField } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { DAY } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import {
  accountsActiveSince,
  counterPage,
  enterPeriod,
  finishReset,
  isSummedUp,
  msUntil,
  newestFinished,
  openReset,
  rollPage,
  rollUpAccount,
} from "./period-store.js";

/** A calendar day or month in UTC, and the one that ended when it began. */
export interface Period extends Begun {
  kind: "day" | "month";
  ended: Begun;
}

interface Begun {
  /** 2026-11-23 or 2026-11. */
  name: string;
  begins: Date;
  /** 2026-11-23 */
  firstDay: string;
}

/** What the reset of a period has on record. */
export interface ResetTotals {
  keysRolled: bigint;
  /** Captured requests of the period that ended, and what they cost. */
  requests: bigint;
  cost: Ngonka;
}

export type ResetState =
  | { kind: "early"; waitMs: number }
  | { kind: "open" }
  | { kind: "finished"; totals: ResetTotals };

const FIRST: Id = "00000000-0000-0000-0000-000000000000";
const KEYS = 2_000;
const ACCOUNTS = 200;
const NAMES = { day: /^\d{4}-\d{2}-\d{2}$/, month: /^\d{4}-\d{2}$/ };

/**
 * @throws invalid_request_error for what is no day (2026-11-23) or month (2026-11) of the calendar
 */
export function readPeriod(kind: Period["kind"], name: string): Period {
  const begins = new Date(`${kind === "day" ? name : `${name}-01`}T00:00:00Z`);
  const real = NAMES[kind].test(name) && begins.getTime() > 0;
  if (!real || nameOf(kind, begins) !== name)
    throw refuseField("period", `no such ${kind}: ${name}`);
  const previous = new Date(begins.getTime() - DAY);
  if (kind === "month") previous.setUTCDate(1);
  return { kind, ...begun(kind, begins), ended: begun(kind, previous) };
}

const nameOf = (kind: Period["kind"], at: Date): string =>
  at.toISOString().slice(0, kind === "day" ? 10 : 7);

function begun(kind: Period["kind"], begins: Date): Begun {
  return { name: nameOf(kind, begins), begins, firstDay: nameOf("day", begins) };
}

/** Begins the reset of a period, or tells that it is too early by the database's clock, or done. */
export async function openPeriod(sql: Sql, period: Period): Promise<ResetState> {
  const waitMs = await msUntil(sql, period.begins);
  if (waitMs > 0) return { kind: "early", waitMs };
  const { finished, ...totals } = await openReset(sql, period);
  return finished ? { kind: "finished", totals } : { kind: "open" };
}

/**
 * Brings the counters of keys that are not in use into the period. Authorize does that for the
 * others, and counts right for these too: so nothing that a customer can see changes. Going on
 * after an interruption is safe.
 *
 * @param after  key to go on after, as last told to `onPage`
 */
export async function rollCounters(
  sql: Sql,
  period: Period,
  { after = FIRST, onPage = () => {} }: { after?: Id; onPage?: (last: Id) => void } = {},
): Promise<void> {
  for (let last: Id | null = after; last !== null; ) {
    const page = await counterPage(sql, period, last, KEYS);
    if (page.keys.length > 0) {
      await sql.begin(async (tx) => {
        await enterPeriod(tx, period, page.accounts);
        await rollPage(tx, period, page.keys);
      });
    }
    last = page.last;
    if (last !== null) onPage(last);
  }
}

/**
 * Sums up what was used in the period that ended, per day, child key and model, and finishes the
 * reset. Doing it again writes the same.
 */
export async function closePeriod(
  sql: Sql,
  period: Period,
  onPage: () => void = () => {},
): Promise<ResetTotals> {
  for (const next of nextDays(period)) {
    const done = period.kind === "month" && (await isSummedUp(sql, next));
    if (!done) await rollUpDay(sql, next, onPage);
    onPage();
  }
  const { keysRolled, requests, cost } = await finishReset(sql, period);
  return { keysRolled, requests, cost };
}

/** First instant of the newest period of a kind whose reset has finished; null where none has. */
export async function newestReset(sql: Sql, kind: Period["kind"]): Promise<Date | null> {
  return await newestFinished(sql, kind);
}

/** For each day of the period that ended, the day after it. */
function nextDays(period: Period): Period[] {
  if (period.kind === "day") return [period];
  const days: Period[] = [];
  for (let at = period.ended.begins.getTime() + DAY; at <= period.begins.getTime(); at += DAY) {
    days.push(readPeriod("day", nameOf("day", new Date(at))));
  }
  return days;
}

async function rollUpDay(sql: Sql, next: Period, onPage: () => void): Promise<void> {
  for (let after: Id | undefined = FIRST; after !== undefined; ) {
    const page = await accountsActiveSince(sql, next.ended.begins, after, ACCOUNTS);
    // From here on nothing more can be captured in that day
    await sql.begin((tx) => enterPeriod(tx, next, page));
    for (const account of page) {
      await rollUpAccount(sql, next, account);
      onPage();
    }
    after = page.length === ACCOUNTS ? page.at(-1) : undefined;
  }
}
