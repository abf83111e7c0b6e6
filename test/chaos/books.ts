import type { Id } from "../../src/base/ids.js";
import type { Ngonka } from "../../src/base/money.js";

/**
 * What became of a call, as its caller knows it: answered, refused for certain, or lost on the way.
 */
export type Outcome = "acknowledged" | "refused" | "unknown";

/** One request for inference. */
export interface Asked {
  no: number;
  child: Id;
  stream: boolean;
  /** First 8 bytes of the body's SHA-256: what its hold remembers of it. */
  fingerprint: bigint;
  outcome: Outcome;
  /** What the answer says that it cost; only of an acknowledged one. */
  cost?: Ngonka;
  /** Status and code of a refusal, or how the connection ended. */
  why: string;
}

/** One hold of a backend. Unknown outcomes are asked again until they are known. */
export interface Kept {
  id: Id;
  child: Id;
  authorized: Outcome;
  /** True where an earlier try of what was refused may still be on its way: it may open a hold. */
  inDoubt: boolean;
  /** ngonka, extensions included that were acknowledged. */
  amount: Ngonka;
  /** Epoch milliseconds, as the answer said it; moved by extensions. */
  deadline: number;
  /** Null where it was left to its deadline, or never opened. */
  end: { kind: "capture" | "void"; outcome: Outcome; cost: Ngonka } | null;
  why: string;
}

export interface ToppedUp {
  account: Id;
  reference: string;
  amount: Ngonka;
  acknowledged: boolean;
}

/** All that a client knows. */
export interface ClientBook {
  asked: Asked[];
  kept: Kept[];
  toppedUp: ToppedUp[];
  /** What must not have been, noticed on the spot. */
  complaints: Complaint[];
}

export interface Complaint {
  what: string;
  id: string;
}

/** What an upstream did for one request. */
export interface Served {
  no: number;
  gateway: string;
  /** How often it was asked for this. */
  times: number;
  /** True once the last byte of a good answer was handed to the system. */
  whole: boolean;
  /** Tokens that it reports; null where it keeps them to itself. */
  usage: { input: number; output: number } | null;
}

export type UpstreamBook = Map<number, Served>;

export const emptyBook = (): ClientBook => ({ asked: [], kept: [], toppedUp: [], complaints: [] });
