/**
 * The border between workflows and the rest: what they are called, what goes in and what comes out.
 * Everything that crosses it is plain JSON: amounts are decimal strings of ngonka, instants are ISO
 * 8601. No secret ever does.
 */

/** Task queues. A slow job must not starve the books, so they have workers of their own. */
export const QUEUES = {
  jobs: "keytoll-jobs",
  books: "keytoll-books",
  webhooks: "keytoll-webhooks",
} as const;

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
  | "key-grace"
  | "key-reannounce"
  | "expiry-sweep"
  | "limit-reset"
  | "settlement"
  | "hold-recovery"
  | "settle-hold"
  | "partitions"
  | "reconcile"
  | "webhook-endpoint"
  | "webhook";

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
  keyGrace: (keyId: string) => `key-grace/${keyId}`,
  settlement: (shard: number) => `settlement/${shard}`,
  settleHold: (holdId: string) => `settle-hold/${holdId}`,
  limitReset: ({ kind, period }: PeriodRef) => `limit-reset/${kind}/${period}`,
  webhookEndpoint: (endpointId: string) => `webhook-endpoint/${endpointId}`,
  webhook: (deliveryId: string) => `webhook/${deliveryId}`,
};

export const SIGNALS = {
  expiryChanged: "expiryChanged",
  graceChanged: "graceChanged",
  settleNow: "settleNow",
} as const;

/** What an operator may order of a running workflow. Each wants an `Order`, and is audited. */
export const UPDATES = {
  pause: "pause",
  resume: "resume",
  retryAccount: "retryAccount",
  giveUp: "giveUp",
} as const;

/** What an operator may ask a running workflow: how it stands. */
export const QUERIES = { state: "state" } as const;

/** Who orders something that is not routine, and why. Both go to the audit trail. */
export interface Order {
  /** The operator, as they call themselves, 1 to 100 characters. */
  by: string;
  /** 1 to 200 characters. */
  reason: string;
}

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
  /** Accounts that are set aside, longest first, 20 at most; the others were settled. */
  failed: FailedAccount[];
}

/** An account whose usage cannot be posted. */
export interface FailedAccount {
  account: string;
  reason: string;
  /** When it is tried again by itself. Recorded histories may lack it. */
  nextAt?: string;
}

/** What an operator's retry of an account came to. */
export type Retried =
  | { kind: "settled"; records: number; amountNgonka: string }
  /** It stays set aside. */
  | { kind: "failed"; reason: string }
  | { kind: "not_set_aside" };

/** How a settlement workflow stands. */
export interface SettlementState {
  shard: number;
  paused: Pause | null;
  /** Posted since this workflow was first started. */
  records: number;
  amountNgonka: string;
  /** Captured records that were not posted yet at the last look. */
  behind: number;
  oldestSeconds: number;
  setAside: FailedAccount[];
}

export interface Pause extends Order {
  /** ISO 8601. */
  since: string;
}

export interface Swept {
  /** Streams charged for what they had produced. */
  captured: number;
  /** Amounts given back. */
  voided: number;
}

/** How a request of our own gateway ended, where Postgres did not take it at once. */
export interface HoldEnding {
  accountId: string;
  holdId: string;
  /** What it cost and why; null: nothing, its hold is given back. */
  capture: {
    costNgonka: string;
    inputTokens: string;
    outputTokens: string;
    /** Counted by us, not reported by the upstream. */
    estimated: boolean;
    /** Of the request, so that doing it again is told from doing something else. */
    fingerprint: string;
  } | null;
}

export type HoldSettled =
  /** What the customer pays. */
  | { kind: "captured"; costNgonka: string }
  | { kind: "voided" }
  /** A sweep had ended it: what it cost above what was captured then is the house's loss. */
  | { kind: "too_late" }
  /** An operator ended the tries: the hold is left to its deadline. */
  | { kind: "given_up" };

/** Activities on the queue `books`. */
export interface BooksActivities {
  settleShard(shard: number): Promise<Settled>;
  sweepHolds(): Promise<Swept>;
  settleHold(ending: HoldEnding): Promise<HoldSettled>;
  retryAccount(account: string, order: Order): Promise<Retried>;
  /** Writes what an operator ordered to the audit trail. */
  noteOrder(deed: Deed): Promise<void>;
}

/** An operator's order, as the audit trail has it. */
export interface Deed extends Order {
  /** `<noun>.<past verb>`: settlement.paused */
  action: string;
  /** Id of what it is about: of a workflow, or of a hold. */
  subject: string;
  account?: string;
}

/** A reconciliation, by the UTC day that it is for. */
export interface Reconciled {
  /** 2026-11-23 */
  day: string;
  invariants: number;
  /** Usage records that were looked at. */
  records: number;
  /** From the first row on, not from a checkpoint. */
  whole: boolean;
  /** What is not as it should be, in the order of the invariants, 20 at most. */
  differences: { invariant: number; subject: string; reason: string }[];
  /** All of them. */
  count: number;
}

export type ReconcileState = { kind: "open"; day: string } | { kind: "finished"; done: Reconciled };

/** What is asked of a reconciliation. Absent: what the Schedule asks. */
export interface ReconcileOrder {
  /** 2026-11-23; absent: the day of the Schedule's time, else the database's. */
  day?: string;
  /** Looks again though that day is done. */
  again?: boolean;
}

/** Activities on the queue `books`. */
export interface ReconcileActivities {
  openReconcile(order: ReconcileOrder): Promise<ReconcileState>;
  /** Recomputes the invariants and notes the differences. */
  proveBooks(day: string): Promise<void>;
  /** Looks for what waits too long or was set aside, and notes it. */
  examineBacklog(day: string): Promise<void>;
  closeReconcile(day: string): Promise<Reconciled>;
}

/** Activities on the queue `jobs`. */
export interface PeriodActivities {
  openPeriod(ref: PeriodRef): Promise<PeriodState>;
  rollCounters(ref: PeriodRef): Promise<void>;
  sumUpUsage(ref: PeriodRef): Promise<void>;
  tellOfResets(ref: PeriodRef): Promise<void>;
  closePeriod(ref: PeriodRef): Promise<PeriodTotals>;
  /** @returns number of partitions that were made */
  makePartitions(): Promise<number>;
}
