import {
  type Account,
  accountOf,
  at,
  type Child,
  changeInstant,
  dayOf,
  heldOf,
  holdsOf,
  instant,
  type Manager,
  type Micros,
  monthOf,
  sum,
  usedOf,
  type World,
} from "./model.js";

/**
 * Rules of accounts and their keys: top-ups, settlement, changes, expiry, and the reset of idle
 * counters. Each is a change at an instant of its account; a refused one moves nothing.
 */

const DAY = 86_400_000_000;

export type Limits = Pick<Child, "daily" | "monthly" | "total">;
export type ChildChange = Partial<
  Limits & { status: "active" | "disabled"; expires: Micros | null }
>;
export type ManagerChange = Partial<{ status: "active" | "disabled"; expires: Micros | null }>;

/** A top-up counts once per reference. @returns what the caller is told */
export function credit(world: World, account: number, amount: bigint, reference: string): string {
  const [to, now] = [`a${account}`, changeInstant(world, accountOf(world, account))];
  const before = world.journal.find((it) => it.kind === "credit" && it.reference === reference);
  if (before && (before.amount !== amount || before.to !== to)) return "idempotency_conflict";
  if (!before) {
    world.journal.push({ kind: "credit", from: "deposits", to, amount, reference, at: now });
  }
  accountOf(world, account).last = now;
  return `credited ${amount}`;
}

/** Posts at most `most` usage records, in the order of their numbers. @returns how many */
export function settle(world: World, i: number, most: number): number {
  const account = accountOf(world, i);
  const to = account.settled + BigInt(most);
  const records = [...account.holds.values()].filter(
    ({ seq }) => seq > account.settled && seq <= to,
  );
  if (records.length === 0) return 0;

  const now = instant(world, account);
  const amount = sum(records.map((hold) => hold.cost));
  account.posts.push(amount);
  account.settled += BigInt(records.length);
  account.last = now;
  const reference = `a${i}/${account.posts.length}`;
  const line = { kind: "settlement", from: `a${i}`, to: "revenue", amount, reference } as const;
  if (amount > 0n) world.journal.push({ ...line, at: now });
  return records.length;
}

export function suspend(world: World, i: number, suspended: boolean): string {
  const account = accountOf(world, i);
  account.last = changeInstant(world, account);
  account.suspended = suspended;
  return suspended ? "suspended" : "active";
}

/** What a key shows: its management key stops it too; expiry goes by the clock. */
export function shownOf(world: World, i: number): string {
  const child = at(world.children, i);
  const both = [child, at(world.managers, child.manager)];
  for (const status of ["deleted", "disabled"]) {
    if (both.some((key) => key.status === status)) return status;
  }
  const expired = both.some(({ expires }) => expires !== null && expires <= world.clock);
  return expired ? "expired" : "active";
}

/** A child as its owner is shown it: counters of a past period are zero. */
export function childShown(world: World, i: number): string {
  const { day, month } = at(world.children, i);
  const daily = usedOf(world, i, (part) => dayOf(part.at) === day);
  const monthly = usedOf(world, i, (part) => monthOf(part.at) === month);
  const used = [
    day >= dayOf(world.clock) ? daily : 0n,
    month >= monthOf(world.clock) ? monthly : 0n,
    usedOf(world, i, () => true),
  ];
  return `${shownOf(world, i)}, used ${used.join("/")}`;
}

/**
 * Changes the fields that differ. An expiry must lie ahead of the account's time; a later one
 * revives the key.
 */
function change(world: World, key: Manager, to: Partial<Child>): string | undefined {
  const now = changeInstant(world, accountOf(world, key.account));
  const moved = to.expires !== undefined && to.expires !== key.expires;
  if (moved && to.expires !== null && Number(to.expires) <= now) return "invalid_request_error";
  Object.assign(key, to);
  accountOf(world, key.account).last = now;
  return undefined;
}

export function changeChild(world: World, i: number, to: ChildChange): string {
  if (shownOf(world, i) === "deleted") return "not_found";
  return change(world, at(world.children, i), to) ?? childShown(world, i);
}

/** For good; again is the same. */
export function deleteChild(world: World, i: number): string {
  change(world, at(world.children, i), { status: "deleted" });
  return childShown(world, i);
}

/** A new secret; the one before works for the grace, any older one no longer. */
export function rotateChild(world: World, i: number, graceSeconds: number): string {
  if (shownOf(world, i) === "deleted") return "not_found";
  const child = at(world.children, i);
  change(world, child, {});
  const now = accountOf(world, child.account).last;
  child.grace = graceSeconds === 0 ? null : now + graceSeconds * 1_000_000;
  child.version += 1;
  return childShown(world, i);
}

export function changeManager(world: World, i: number, to: ManagerChange): string {
  const manager = at(world.managers, i);
  if (manager.status === "deleted") return "not_found";
  return change(world, manager, to) ?? manager.status;
}

/** For good, and with it all its children. */
export function deleteManager(world: World, i: number): string {
  change(world, at(world.managers, i), { status: "deleted" });
  return "deleted";
}

/** Puts expiries that have passed on record; from then on no clock brings the keys back. */
export function recordExpiries(world: World): void {
  for (const key of [...world.children, ...world.managers]) {
    const { expires, recorded, status } = key;
    if (expires === null || expires > world.clock) continue;
    if (status === "deleted" || recorded === expires) continue;
    key.recorded = expires;
    const account = accountOf(world, key.account);
    account.last = Math.max(account.last, expires);
  }
}

/**
 * Brings idle counters into the period that began, and sums up what was captured until then, in
 * which nothing more can be captured for whoever was in use of late.
 *
 * @param day first day of the period
 */
export function reset(world: World, kind: "day" | "month", day: string): string {
  const begins = Date.parse(`${day}T00:00:00Z`) * 1_000;
  if (begins > world.clock) return "early";
  if (world.closed.has(`${kind} ${day}`)) return "finished";
  const enter = (account: Account) => {
    account.last = Math.max(account.last, begins);
  };
  const periodOf = kind === "day" ? dayOf : monthOf;
  for (const [i, child] of world.children.entries()) {
    const counted = child[kind];
    const used = usedOf(world, i, (part) => periodOf(part.at) === counted);
    if (counted >= day || used === 0n) continue;
    child[kind] = day;
    enter(accountOf(world, child.account));
  }
  for (const account of world.accounts) {
    if (account.last >= begins - DAY || heldOf(account) > 0n) enter(account);
    for (const { seq, endedAt } of account.holds.values()) {
      if (endedAt < begins && seq > account.rolled) account.rolled = seq;
    }
  }
  world.closed.add(`${kind} ${day}`);
  return "rolled";
}

/** A child's usage as far as it is summed up, by the day of its capture. */
export function rolledUp(world: World, child: number) {
  const { rolled } = accountOf(world, at(world.children, child).account);
  const counted = holdsOf(world, child).filter(({ seq }) => seq > 0n && seq <= rolled);
  const days = new Set(counted.map((hold) => dayOf(hold.endedAt)));
  return [...days].map((day) => {
    const captured = counted.filter((hold) => dayOf(hold.endedAt) === day);
    return { day, requests: captured.length, cost: sum(captured.map((hold) => hold.cost)) };
  });
}
