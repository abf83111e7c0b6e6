import type { Id } from "../base/ids.js";
import type { Actor } from "../db/change.js";

export type Access = "read_write" | "read_only";

/**
 * How answers tell their cost: under names that do not tell the network, with a GNK amount beside,
 * or not at all.
 */
export type CostFields = "neutral" | "gonka" | "none";

/** What somebody shows of who they are, and from where. */
export interface Credentials {
  /** The header, "Bearer ...". */
  authorization: string | undefined;
  /** Address of the peer of the connection. */
  ip: string;
}

/** The account's owner, by a signed token. */
export interface OwnerCaller {
  kind: "owner";
  account: Id;
}

/** A `gm-` key: administers itself and its children. */
export interface ManagementCaller {
  kind: "management";
  account: Id;
  managementKey: Id;
  /** Version of the secret that authenticated. */
  secretVersion: number;
  access: Access;
}

/** What all keys of an account may send together; null: no limit. */
export interface AccountLimits {
  /** Most requests in any 60 s. */
  rateLimitRpm: number | null;
  /** Most requests that run at once. */
  concurrency: number | null;
}

/** A `gc-` key: infers. */
export interface ChildCaller {
  kind: "child";
  account: Id;
  child: Id;
  managementKey: Id;
  secretVersion: number;
  /** Most requests in any 60 s; null: no limit. */
  rateLimitRpm: number | null;
  accountLimits: AccountLimits;
  /** Models that it may use, by their ids or aliases; null: all. */
  models: string[] | null;
  costFields: CostFields;
}

/** The operator, by the admin token. */
export interface AdminCaller {
  kind: "admin";
}

export type KeyCaller = ManagementCaller | ChildCaller;
export type Caller = OwnerCaller | KeyCaller | AdminCaller;
/** Who may administer keys. */
export type Manager = OwnerCaller | ManagementCaller;

/** The manager as the audit trail names them. */
export const actorOf = (manager: Manager): Actor =>
  manager.kind === "owner" ? `owner:${manager.account}` : `management_key:${manager.managementKey}`;
