// The border of the key workflows: see contract.ts.

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

/** What a look at the grace of a key's replaced secret found. */
export type GraceState =
  /** It has ended and is on record now, the secret's hash forgotten. */
  | { kind: "recorded"; until: string }
  /** It ends in `waitMs` by the database's clock. */
  | { kind: "waiting"; until: string; waitMs: number }
  /** There is no replaced secret, or its end is on record already. */
  | { kind: "none" };

/** When something is due for a key; in the order of `at`, then `keyId`, then `kind`. */
export interface KeyMoment {
  /** Instant as the database writes it, to the microsecond. */
  at: string;
  keyId: string;
  kind: "expiry" | "grace";
}

export interface Reannounced {
  announced: number;
  /** Null where there is nothing after it. */
  last: KeyMoment | null;
}

/** Activities on the queue `jobs`. */
export interface KeyActivities {
  recordExpiryIfDue(keyId: string): Promise<ExpiryState>;
  /** @returns number of keys whose expiry was recorded */
  sweepExpiredKeys(): Promise<number>;
  recordGraceEndIfDue(keyId: string): Promise<GraceState>;
  /** @returns number of keys whose replaced secret was forgotten */
  sweepEndedGraces(): Promise<number>;
  /** Starts what is missing for the next page of keys after that moment; null: from now on. */
  reannounceKeys(after: KeyMoment | null): Promise<Reannounced>;
}
