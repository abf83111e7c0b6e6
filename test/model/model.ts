/**
 * The rules of the money as plain arithmetic: what the database must do. It knows nothing of
 * batches, locks or SQL, and keeps only what happened; every balance and counter is summed from
 * that at each question, so a stored one that drifts from its own history is seen at once.
 * Amounts are ngonka. Times are microseconds since 1970, and each account has its own: it never
 * goes back, whatever the clock does.
 */

export type Micros = number;
export type Status = "active" | "disabled" | "deleted";

export interface Part {
  amount: bigint;
  /** Captured of this part; parts are filled in order. */
  cost: bigint;
  at: Micros;
  deadline: Micros;
  print: bigint;
  own: boolean;
}

export interface Hold {
  child: number;
  state: "open" | "captured" | "voided" | "swept";
  parts: Map<number, Part>;
  /** What its stream had produced when that was last told. */
  checkpoint: bigint | null;
  endedAt: Micros;
  endPrint: bigint;
  cost: bigint;
  /** Number of its usage record; 0n where nothing was captured. */
  seq: bigint;
  /** True where the checkpoint was charged. */
  estimated: boolean;
}

export interface Account {
  suspended: boolean;
  last: Micros;
  holds: Map<number, Hold>;
  seq: bigint;
  settled: bigint;
  /** Usage up to this number is summed up. */
  rolled: bigint;
  posts: bigint[];
}

export interface Manager {
  account: number;
  status: Status;
  expires: Micros | null;
  recorded: Micros | null;
}

export interface Child extends Manager {
  manager: number;
  version: number;
  /** End of the grace of the secret before. */
  grace: Micros | null;
  daily: bigint | null;
  monthly: bigint | null;
  total: bigint | null;
  /** Periods that its counters show. */
  day: string;
  month: string;
}

export interface Transfer {
  kind: "credit" | "settlement" | "loss";
  from: string;
  to: string;
  amount: bigint;
  reference: string;
  at: Micros;
}

/** A hold of an account by what it is: the n-th of those, going round. */
export interface Which {
  of: "new" | "open" | "any";
  n: number;
}

export interface World {
  clock: Micros;
  /** As far as the clock goes. */
  horizon: Micros;
  /** When the gateway last renewed its lease; null: no such gateway. */
  gatewaySeen: Micros | null;
  accounts: Account[];
  managers: Manager[];
  children: Child[];
  journal: Transfer[];
  /** Days whose reset has finished. */
  closed: Set<string>;
}

export const dayOf = (at: Micros): string => new Date(at / 1_000).toISOString().slice(0, 10);
export const monthOf = (at: Micros): string => `${dayOf(at).slice(0, 7)}-01`;
export const sum = (amounts: bigint[]): bigint => amounts.reduce((a, b) => a + b, 0n);
export const least = (...amounts: (bigint | null)[]): bigint =>
  amounts.reduce<bigint>((a, b) => (b !== null && b < a ? b : a), 2n ** 63n);

export const accountOf = (world: World, i: number): Account => at(world.accounts, i);
export function at<T>(list: T[], i: number): T {
  const found = list[i];
  if (found === undefined) throw new Error(`no ${i} in a list of ${list.length}`);
  return found;
}

/** An account's next instant for holds and settlement: after all that happened before. */
export const instant = (world: World, { last }: Account): Micros => Math.max(world.clock, last + 1);
/** Its next instant for any other change: a whole millisecond. */
export const changeInstant = (world: World, { last }: Account): Micros =>
  Math.floor(Math.max(world.clock, last) / 1_000) * 1_000 + 1_000;

export const partsOf = (holds: Hold[]): Part[] => holds.flatMap((hold) => [...hold.parts.values()]);
export const openOf = ({ holds }: Account): Hold[] =>
  [...holds.values()].filter(({ state }) => state === "open");
export const amountOf = (hold: Hold): bigint => sum(partsOf([hold]).map((part) => part.amount));

export const postedOf = ({ journal }: World, account: number): bigint =>
  sum(journal.map((it) => (it.to === `a${account}` ? it.amount : 0n))) -
  sum(journal.map((it) => (it.from === `a${account}` ? it.amount : 0n)));
export const heldOf = (account: Account): bigint => sum(openOf(account).map(amountOf));
export const accruedOf = ({ holds, settled }: Account): bigint =>
  sum([...holds.values()].map((hold) => (hold.seq > settled ? hold.cost : 0n)));
export const availableOf = (world: World, account: number): bigint =>
  postedOf(world, account) -
  accruedOf(accountOf(world, account)) -
  heldOf(accountOf(world, account));

export const holdsOf = (world: World, child: number): Hold[] =>
  [...accountOf(world, at(world.children, child).account).holds.values()].filter(
    (hold) => hold.child === child,
  );

/** Captured plus open of a child, over the parts that `counts` picks. */
export const usedOf = (world: World, child: number, counts: (part: Part) => boolean): bigint =>
  sum(
    holdsOf(world, child).flatMap((hold) =>
      partsOf([hold])
        .filter(counts)
        .map((part) => (hold.state === "open" ? part.amount : part.cost)),
    ),
  );
export const heldByChild = (world: World, child: number): bigint =>
  sum(
    holdsOf(world, child)
      .filter(({ state }) => state === "open")
      .map(amountOf),
  );

const NO_LIMITS = { daily: null, monthly: null, total: null };

/** What is left of each limit, below zero where it was lowered below what is used. */
export function leftOf(world: World, child: number, now: Micros) {
  const { daily, monthly, total } = world.children[child] ?? NO_LIMITS;
  const less = (limit: bigint | null, counts: (part: Part) => boolean) =>
    limit === null ? null : limit - usedOf(world, child, counts);
  return {
    daily: less(daily, (part) => dayOf(part.at) === dayOf(now)),
    monthly: less(monthly, (part) => monthOf(part.at) === monthOf(now)),
    total: less(total, () => true),
  };
}

/**
 * The number that is meant; where none is open, one of the account's; new ones begin after all that
 * any account knows.
 */
export function numberOf({ accounts }: World, account: number, { of, n }: Which): number {
  const known = accounts.flatMap(({ holds }) => [...holds.keys()]);
  const own = [...at(accounts, account).holds];
  const open = own.filter(([, hold]) => hold.state === "open");
  const lists = { new: [], any: known, open: (open.length > 0 ? open : own).map(([id]) => id) };
  const list: number[] = lists[of];
  return list[n % list.length] ?? Math.max(-1, ...known) + 1 + n;
}
