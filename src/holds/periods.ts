import { refuseField } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { DAY } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import {
  type ChildPage,
  counterPage,
  enterPeriod,
  finishReset,
  msUntil,
  newestFinished,
  openReset,
  rollPage,
  rollUpUsage,
  type UsagePage,
  usagePage,
  usedChildren,
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
const ACCOUNTS = 500;
/** Usage records that are summed up in one transaction. */
const RECORDS = 50_000;
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

export interface Course {
  /** Key or account to go on after, as last told to `onPage`. */
  after?: Id;
  /** Told after each step where a next attempt may take it up. */
  onPage?: (last: Id) => void;
}

/**
 * Brings the counters of keys that are not in use into the period. Authorize does that for the
 * others, and counts right for these too: so nothing that a customer can see changes. Going on
 * after an interruption is safe.
 */
export async function rollCounters(
  sql: Sql,
  period: Period,
  { after = FIRST, onPage = () => {} }: Course = {},
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
 * Sums up what was captured until the period began, per day, child key and model. Each usage record
 * is added once, by its number, whatever runs beside it or again; what came late for a day that was
 * summed up before is added to that day.
 */
export async function sumUpUsage(
  sql: Sql,
  period: Period,
  { after = FIRST, onPage = () => {} }: Course = {},
): Promise<void> {
  const cut = { begins: period.begins, since: new Date(period.begins.getTime() - DAY) };
  for (let last: Id | undefined = after; last !== undefined; ) {
    const { accounts, open }: UsagePage = await usagePage(sql, cut, last, ACCOUNTS);
    if (open.length > 0) await sql.begin((tx) => enterPeriod(tx, period, open));
    while (accounts.length > 0 && (await rollUpUsage(sql, accounts, period.begins, RECORDS))) {
      onPage(last);
    }
    last = accounts.at(-1);
    if (last !== undefined) onPage(last);
  }
}

/** Sums up the usage that is left, and finishes the reset. Doing it again writes the same. */
export async function closePeriod(
  sql: Sql,
  period: Period,
  course: Course = {},
): Promise<ResetTotals> {
  await sumUpUsage(sql, period, course);
  const { keysRolled, requests, cost } = await sql.begin((tx) => finishReset(tx, period));
  return { keysRolled, requests, cost };
}

/**
 * Child keys that have a limit of this kind and were charged in the period that ended, once that is
 * summed up, by pages in the order of their ids. A page may be empty and not the last.
 */
export async function childrenReset(
  sql: Sql,
  period: Period,
  after: Id | null,
  limit = KEYS,
): Promise<ChildPage> {
  return await usedChildren(sql, period, daysOf(period), after ?? FIRST, limit);
}

/** First instant of the newest period of a kind whose reset has finished; null where none has. */
export async function newestReset(sql: Sql, kind: Period["kind"]): Promise<Date | null> {
  return await newestFinished(sql, kind);
}

/** Days of the period that ended. */
function daysOf({ begins, ended }: Period): string[] {
  const days: string[] = [];
  for (let at = ended.begins.getTime(); at < begins.getTime(); at += DAY) {
    days.push(nameOf("day", new Date(at)));
  }
  return days;
}
