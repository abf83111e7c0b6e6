import { refuse, refuseField } from "../base/errors.js";
import { checkId, checkInteger } from "../base/field.js";
import type { Db } from "../db/sql.js";
import type { Manager } from "../keys/caller.js";
import { isMidnight, sectionsOf } from "./sections.js";
import {
  archivedThrough,
  type Group,
  isInScope,
  type Line,
  numbersOf,
  readSums,
  type Scope,
  type Span,
  selectRecords,
  type Totals,
  type UsageRecord,
} from "./store.js";

/** Which usage is asked for. */
export interface Wanted extends Span {
  /** Of one child only. */
  child?: string | undefined;
  cursor?: string | undefined;
  limit?: number | undefined;
}

export interface Summary {
  /** Of all lines, also of those on other pages. */
  totals: Totals;
  lines: Line[];
  nextCursor?: string;
}

export interface RecordPage {
  records: UsageRecord[];
  nextCursor?: string;
}

const MAX_PAGE = 1_000;
const DEFAULT_RECORDS = 50;
/** Records that are looked at for a page of some children's: more are left to the next page. */
const MAX_LOOKED_AT = 20_000n;
const MAX_KEY = 1_000;

/**
 * Sums up what was captured in a time, over all children that the caller may see. Exact: whole days
 * come from their roll-ups and whatever is in none from the records, of one moment.
 *
 * @throws not_found  no such child, or not the caller's
 * @throws invalid_request_error  by the field's name; a time that cuts through a day which was
 *   archived
 */
export async function summarizeUsage(
  db: Db,
  manager: Manager,
  wanted: Wanted & { group: Group | null },
): Promise<Summary> {
  const { group } = wanted;
  checkSpan(wanted);
  const limit = checkInteger("limit", wanted.limit ?? MAX_PAGE, 1, MAX_PAGE);
  const after = readCursor(wanted.cursor) ?? null;
  const scope = await scopeOf(db, manager, wanted.child);
  await refuseArchived(db, scope, wanted);

  const page = { group, after, limit };
  const { totals, lines } = await readSums(db, scope, sectionsOf(wanted), page);
  const shown = lines.slice(0, limit);
  const last = shown.at(-1);
  if (lines.length <= limit || last === undefined) return { totals, lines: shown };
  return { totals, lines: shown, nextCursor: writeCursor(last.key) };
}

/**
 * Usage records, newest first. A page reads a bounded number of them, so one of some children's may
 * be short, or empty, and not the last.
 *
 * @throws not_found  no such child, or not the caller's
 * @throws invalid_request_error  by the field's name
 */
export async function listUsageRecords(
  db: Db,
  manager: Manager,
  wanted: Wanted,
): Promise<RecordPage> {
  checkSpan(wanted);
  const limit = checkInteger("limit", wanted.limit ?? DEFAULT_RECORDS, 1, MAX_PAGE);
  const before = readNumber(wanted.cursor);
  const scope = await scopeOf(db, manager, wanted.child);
  const span = await numbersOf(db, scope.account, wanted);

  const high = before !== undefined && before <= span.high ? before - 1n : span.high;
  const low = high - MAX_LOOKED_AT > span.low ? high - MAX_LOOKED_AT : span.low;
  const rows = await selectRecords(db, scope, { low, high }, limit + 1);
  const records = rows.slice(0, limit);
  const last = records.at(-1);
  if (rows.length > limit && last) return { records, nextCursor: writeCursor(`${last.number}`) };
  if (low > span.low) return { records, nextCursor: writeCursor(`${low + 1n}`) };
  return { records };
}

function checkSpan({ from, to }: Span): void {
  if (from && to && from >= to) throw refuseField("from", "must be before `to`");
}

async function scopeOf(db: Db, manager: Manager, child: string | undefined): Promise<Scope> {
  const managementKey = manager.kind === "owner" ? null : manager.managementKey;
  const all = { account: manager.account, managementKey, child: null };
  if (child === undefined) return all;
  const scope = { ...all, child: checkId("child_id", child) };
  if (!(await isInScope(db, scope))) throw refuse("not_found", { param: "child_id" });
  return scope;
}

/** Of what was archived only the sums of whole days are left. */
async function refuseArchived(db: Db, { account }: Scope, span: Span): Promise<void> {
  const { from, to } = span;
  if ((from === null || isMidnight(from)) && (to === null || isMidnight(to))) return;
  const through = await archivedThrough(db, account);
  if (through === null) return;
  for (const [param, at] of Object.entries({ from, to })) {
    if (at === null || isMidnight(at) || dayBegins(at) > through) continue;
    const problem = "the records of that day were archived: name the beginning of a UTC day";
    throw refuseField(param, problem);
  }
}

const dayBegins = (at: Date): Date => new Date(`${at.toISOString().slice(0, 10)}T00:00:00Z`);

const writeCursor = (key: string): string => Buffer.from(`.${key}`).toString("base64url");

function readCursor(cursor: string | undefined): string | undefined {
  if (cursor === undefined || cursor === "") return undefined;
  const text = Buffer.from(cursor, "base64url").toString();
  if (!text.startsWith(".") || text.length > MAX_KEY || text.includes("\0")) throw wrongCursor();
  return text.slice(1);
}

function readNumber(cursor: string | undefined): bigint | undefined {
  const text = readCursor(cursor);
  if (text !== undefined && !/^[1-9][0-9]{0,17}$/.test(text)) throw wrongCursor();
  return text === undefined ? undefined : BigInt(text);
}

const wrongCursor = () => refuseField("cursor", "is not a next_cursor of this list");
