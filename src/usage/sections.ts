import { DAY } from "../base/time.js";
import type { Span } from "./store.js";

/** A time cut into what is read from records and what from roll-ups. */
export interface Section {
  /** Times as Postgres reads them; half-open. */
  records: { from: string; to: string; unrolled: boolean }[];
  /** UTC days, half-open, whose roll-ups count; null: none. Without end where absent. */
  days: { from: string | null; until: string | null } | null;
}

/**
 * Whole UTC days are read from their roll-ups, and of their records those that are in none yet;
 * what is left at both ends from its records alone.
 */
export function sectionsOf({ from, to }: Span): Section {
  const [first, end] = [from && wholeFrom(from), to && wholeUntil(to)];
  if (first !== null && end !== null && first >= end) {
    return { records: [{ from: timeOf(from), to: timeOf(to), unrolled: false }], days: null };
  }
  const [low, high] = [timeOf(first, "-"), timeOf(end)];
  const parts = [
    { from: timeOf(from, "-"), to: low, unrolled: false },
    { from: low, to: high, unrolled: true },
    { from: high, to: timeOf(to), unrolled: false },
  ];
  return {
    records: parts.filter((part) => part.from !== part.to),
    days: { from: first && dayOf(first), until: end && dayOf(end) },
  };
}

/** Whether a moment begins a UTC day. */
export const isMidnight = (at: Date): boolean => at.getTime() % DAY === 0;

const wholeFrom = (at: Date) => new Date(Math.ceil(at.getTime() / DAY) * DAY);
const wholeUntil = (at: Date) => new Date(Math.floor(at.getTime() / DAY) * DAY);

const dayOf = (at: Date): string => at.toISOString().slice(0, 10);
const timeOf = (at: Date | null, sign = ""): string => at?.toISOString() ?? `${sign}infinity`;
