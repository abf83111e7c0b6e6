import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import type { Access, CostFields } from "./caller.js";

/** What is stored; `expired` is derived from `expiresAt`. */
export type StoredStatus = "active" | "disabled" | "deleted";
/** What a key can do at the moment, its management key considered. */
export type KeyStatus = StoredStatus | "expired";

/** What decides whether a secret works. */
export interface SecretState {
  status: StoredStatus;
  expiresAt: Date | null;
  secretVersion: number;
  /** End of the grace of version `secretVersion - 1`; null: it has none. */
  previousSecretUntil: Date | null;
}

export interface ManagementKey extends SecretState {
  id: Id;
  account: Id;
  name: string;
  hint: string;
  access: Access;
  /** How its children are told what a request cost. */
  costFields: CostFields;
  shownStatus: KeyStatus;
  createdAt: Date;
  updatedAt: Date;
}

/** What the owner sets of a child key. Null: no limit; never; all models. */
export interface ChildFields {
  name: string;
  limitDaily: Ngonka | null;
  limitMonthly: Ngonka | null;
  limitTotal: Ngonka | null;
  rateLimitRpm: number | null;
  expiresAt: Date | null;
  models: string[] | null;
  metadata: Record<string, string>;
}

export interface ChildKey extends ChildFields, SecretState {
  id: Id;
  account: Id;
  managementKey: Id;
  hint: string;
  shownStatus: KeyStatus;
  /** Captured and held, in the database's current UTC day, month, and in all. */
  usedDaily: Ngonka;
  usedMonthly: Ngonka;
  usedTotal: Ngonka;
  dailyResetsAt: Date;
  monthlyResetsAt: Date;
  requestsTotal: bigint;
  lastUsedAt: Date | null;
  createdAt: Date;
  updatedAt: Date;
}

/** True where a secret of that version works at that time (milliseconds since 1970). */
export function works(key: SecretState, version: number, at: number): boolean {
  if (key.status !== "active") return false;
  if (key.expiresAt !== null && key.expiresAt.getTime() <= at) return false;
  if (version === key.secretVersion) return true;
  const grace = key.previousSecretUntil?.getTime() ?? 0;
  return version === key.secretVersion - 1 && grace > at;
}

/** What is left of a limit, never below zero; null where there is none. */
export function remainingOf(limit: Ngonka | null, used: Ngonka): Ngonka | null {
  if (limit === null) return null;
  return limit > used ? limit - used : 0n;
}
