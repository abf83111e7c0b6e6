import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";

/** What is asked of one hold. */
export interface HoldRequest {
  account: Id;
  child: Id;
  /** UUIDv7, minted before the first try and kept for every retry. */
  id: Id;
  /** 0 for the request's first hold; 1, 2, ... for extensions of it. */
  part: number;
  amount: Ngonka;
  /**
   * Least amount that will do, where the amount may shrink to what is affordable; 0n: all or
   * nothing.
   */
  floor: Ngonka;
  /** Version of the secret that authenticated; 0 where none did. */
  secretVersion: number;
  /** Seconds until the hold may be swept. */
  seconds: number;
  /** Of everything that was asked, so that a repeat is told from a conflict. */
  fingerprint: bigint;
  /** True for requests that this gateway itself runs, false for a backend's own holds. */
  own: boolean;
  model: string | null;
  priceVersion: number | null;
}

/** Ngonka left of each limit, net of open holds; null where no limit is set. */
export interface Remaining {
  daily: Ngonka | null;
  monthly: Ngonka | null;
  total: Ngonka | null;
}

export interface Authorized {
  /** What was reserved: the amount asked for, or less where a floor was given. */
  amount: Ngonka;
  authorizedAt: Date;
  deadline: Date;
  remaining: Remaining;
  /**
   * Set when the same hold was authorized before: still open, or ended since (then nothing may be
   * spent on it).
   */
  repeated: "open" | "ended" | null;
}

/** What is captured for one request. */
export interface Capture {
  account: Id;
  id: Id;
  cost: Ngonka;
  inputTokens: bigint | null;
  outputTokens: bigint | null;
  /** True where we counted because the upstream did not report. */
  estimated: boolean;
  fingerprint: bigint;
  /** True: a cost above the hold is the house's loss. False: it is refused. */
  own: boolean;
}

export interface Captured {
  /** What the customer pays: the cost, at most what was held. */
  cost: Ngonka;
  /** What was reserved for it, extensions included. */
  held: Ngonka;
  /** Number of the usage record in its account. */
  usageSeq: bigint;
  endedAt: Date;
}

/** Keeps an open hold alive and notes what its stream has produced. */
export interface Extension {
  account: Id;
  id: Id;
  seconds: number;
  checkpoint: { cost: Ngonka; inputTokens: bigint; outputTokens: bigint } | null;
}

/**
 * The money core's door: every call joins the next batch of its lane, and resolves once it is
 * durable.
 *
 * All refuse with `busy` when the queue is full, and retry by themselves, with the same ids, when
 * the connection to Postgres is lost: what is answered is what was committed.
 */
export interface Holds {
  /**
   * Refuses: child_key_limit_exceeded, insufficient_balance, invalid_api_key (by secret),
   * child_key_inactive (deleted ones too), account_suspended, idempotency_conflict, hold_ended (an
   * extension of an ended request).
   */
  authorize(request: HoldRequest): Promise<Authorized>;
  /**
   * Refuses: not_found, hold_ended, idempotency_conflict, capture_exceeds_hold; not_ready where
   * Postgres did not take it in time, to be asked again with the same id. Never answers for what
   * Postgres does not have: what of our own requests it does not take is delivered (deliver.ts).
   */
  capture(capture: Capture): Promise<Captured>;
  /** Ends a hold at zero; voiding twice is the same as once. Refuses: not_found, hold_ended. */
  void(hold: { account: Id; id: Id }): Promise<{ endedAt: Date }>;
  /** Moves the deadline. @returns the new deadline; refuses hold_ended where it is not open. */
  extend(extension: Extension): Promise<{ deadline: Date }>;
  /** Waits for what is queued, then takes no more. */
  close(): Promise<void>;
}
