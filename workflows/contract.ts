/**
 * The border between workflows and the rest: what they are called, what goes in and what comes out.
 * Everything that crosses it is plain JSON: amounts are decimal strings of ngonka, instants are ISO
 * 8601. No secret ever does.
 */

/** Task queues. A slow job must not starve the books, so they have workers of their own. */
export const QUEUES = { jobs: "keytoll-jobs", books: "keytoll-books" } as const;

/**
 * What an operator can search for in Temporal's UI, all keywords. Opaque ids only: they are never
 * encrypted.
 */
export const SEARCH_ATTRIBUTES = [
  "KeytollAccount",
  "KeytollKey",
  "KeytollJob",
  "KeytollPeriod",
] as const;

/** Values of the search attribute KeytollJob. */
export type Job =
  | "key-expiry"
  | "expiry-sweep"
  | "limit-reset"
  | "settlement"
  | "hold-recovery"
  | "partitions";

/** Search attributes of one workflow, as Temporal's client and workflows take them. */
export function searchAttributes(of: {
  job: Job;
  account?: string;
  key?: string;
  period?: string;
}) {
  const values = {
    KeytollJob: of.job,
    KeytollAccount: of.account,
    KeytollKey: of.key,
    KeytollPeriod: of.period,
  };
  return Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [{ key: { name, type: "KEYWORD" as const }, value }],
  );
}

/** Accounts are spread over this many settlement workflows, by the column `account.shard`. */
export const SHARDS = [0, 1, 2, 3] as const;

export const workflowIds = {
  keyExpiry: (keyId: string) => `key-expiry/${keyId}`,
  settlement: (shard: number) => `settlement/${shard}`,
  limitReset: ({ kind, period }: PeriodRef) => `limit-reset/${kind}/${period}`,
};

export const SIGNALS = { expiryChanged: "expiryChanged", settleNow: "settleNow" } as const;

/** A child or management key as an operator may see it. */
export interface KeyRef {
  keyId: string;
  accountId: string;
  name: string;
  /** Prefix and last four characters. */
  hint: string;
}

/** What a look at a key's row found. */
export type ExpiryState =
  /** Its expiry has passed and is on record, since now or since before. */
  | { kind: "recorded"; expiresAt: string }
  /** It expires in `waitMs` by the database's clock. */
  | { kind: "waiting"; expiresAt: string; waitMs: number }
  /** It is deleted, or does not expire any more. */
  | { kind: "none" };

/** A calendar period by the name of the one that begins: 2026-11-23, 2026-11. */
export interface PeriodRef {
  kind: "day" | "month";
  period: string;
}

/** What a finished limit reset has on record. */
export interface PeriodTotals {
  /** Name of the period that ended. */
  ended: string;
  keysRolled: number;
  /** Captured requests of the period that ended. */
  requests: number;
  /** What they cost. */
  costNgonka: string;
}

export type PeriodState =
  /** The database's clock has not reached it. */
  | { kind: "early"; waitMs: number }
  | { kind: "open"; ended: string }
  | { kind: "finished"; totals: PeriodTotals };

export interface Settled {
  accounts: number;
  records: number;
  amountNgonka: string;
  /** Captured records of the shard that are not posted yet. */
  behind: number;
  /** Age of the oldest of them, in whole seconds; 0 where there is none. */
  oldestSeconds: number;
  /** Accounts that could not be settled; the others were. */
  failed: { account: string; reason: string }[];
}

export interface Swept {
  /** Streams charged for what they had produced. */
  captured: number;
  /** Amounts given back. */
  voided: number;
}

/** Activities on the queue `books`. */
export interface BooksActivities {
  settleShard(shard: number): Promise<Settled>;
  sweepHolds(): Promise<Swept>;
}

/** Activities on the queue `jobs`. */
export interface KeyActivities {
  recordExpiryIfDue(keyId: string): Promise<ExpiryState>;
  /** @returns number of keys whose expiry was recorded */
  sweepExpiredKeys(): Promise<number>;
}

/** Activities on the queue `jobs`. */
export interface PeriodActivities {
  openPeriod(ref: PeriodRef): Promise<PeriodState>;
  rollCounters(ref: PeriodRef): Promise<void>;
  closePeriod(ref: PeriodRef): Promise<PeriodTotals>;
  /** @returns number of partitions that were made */
  makePartitions(): Promise<number>;
}
