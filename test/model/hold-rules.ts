import {
  accountOf,
  amountOf,
  at,
  availableOf,
  dayOf,
  type Hold,
  heldByChild,
  heldOf,
  instant,
  least,
  leftOf,
  type Micros,
  monthOf,
  openOf,
  partsOf,
  type World,
} from "./model.js";

/** Rules of holds: opening them, moving their deadlines, ending them. */

const SECOND = 1_000_000;

export interface Ask {
  account: number;
  child: number;
  id: number;
  part: number;
  amount: bigint;
  /** The least that will do; 0n: all or nothing. */
  floor: bigint;
  /** Of the secret that authenticated; 0: by none. */
  version: number;
  print: bigint;
  seconds: number;
  own: boolean;
}

const passed = (expires: Micros | null, now: Micros): boolean => expires !== null && expires <= now;

/** Why a child may not spend, whatever the amount. */
function obstacle(world: World, ask: Ask, now: Micros): string | undefined {
  const child = world.children[ask.child];
  if (child?.account !== ask.account || child.status === "deleted") return "no such child";
  for (const key of [child, at(world.managers, child.manager)]) {
    if (key.status !== "active" || passed(key.expires, now)) return "key not active";
  }
  if (accountOf(world, ask.account).suspended) return "account suspended";
  const { version, grace } = child;
  const inGrace = ask.version === version - 1 && grace !== null && grace > now;
  return ask.version > 0 && ask.version !== version && !inGrace ? "key not active" : undefined;
}

/**
 * Which limit stands in the way; "for now" where it would fit but for the child's open holds, of
 * whatever period (for the balance: the account's).
 */
function limitReached(world: World, { account, child }: Ask, want: bigint, now: Micros) {
  const held = heldByChild(world, child);
  const left = leftOf(world, child, now);
  const bounds = [
    { name: "daily limit", left: left.daily, held },
    { name: "monthly limit", left: left.monthly, held },
    { name: "total limit", left: left.total, held },
    { name: "balance", left: availableOf(world, account), held: heldOf(accountOf(world, account)) },
  ];
  const reached = bounds.find((bound) => bound.left !== null && want > bound.left);
  if (!reached) return undefined;
  return want > (reached.left ?? 0n) + reached.held ? reached.name : `${reached.name}, for now`;
}

/** Where all of it does not fit but the floor does: half of what is left, at least the floor. */
function shrunk(world: World, { account, child, amount, floor }: Ask, now: Micros): bigint {
  const left = leftOf(world, child, now);
  const most = least(availableOf(world, account), left.daily, left.monthly, left.total);
  if (floor === 0n || amount <= most || floor > most) return amount;
  return floor > most / 2n ? floor : most / 2n;
}

/** @returns the decision in words, and what is or was granted */
export function authorize(world: World, ask: Ask, now: Micros): { word: string; amount: bigint } {
  const account = accountOf(world, ask.account);
  const hold = account.holds.get(ask.id);
  const before = hold?.parts.get(ask.part);
  if (hold && before) {
    const word = hold.state === "open" ? "held before" : "held before, ended since";
    return { word: before.print === ask.print ? word : "other content", amount: before.amount };
  }
  const no = (word: string, amount = ask.amount) => ({ word, amount });
  const stopped = obstacle(world, ask, now);
  if (stopped) return no(stopped);
  if (ask.part > 0 && (hold?.state !== "open" || hold.child !== ask.child)) {
    return no("first hold not open");
  }
  const amount = shrunk(world, ask, now);
  const reached = limitReached(world, ask, amount, now);
  if (reached) return no(reached, amount);

  const deadline = now + ask.seconds * SECOND;
  const part = { amount, cost: 0n, at: now, deadline, print: ask.print, own: ask.own };
  const opened = hold ?? newHold(ask.child);
  opened.parts.set(ask.part, part);
  account.holds.set(ask.id, opened);
  account.last = now;
  Object.assign(at(world.children, ask.child), { day: dayOf(now), month: monthOf(now) });
  return { word: "held", amount };
}

const newHold = (child: number): Hold => ({
  child,
  state: "open",
  parts: new Map(),
  checkpoint: null,
  endedAt: 0,
  endPrint: 0n,
  cost: 0n,
  seq: 0n,
  estimated: false,
});

export interface End {
  account: number;
  id: number;
  /** A backend's capture, our own gateway's, a void, or the sweep of one hold. */
  how: "backend" | "gateway" | "void" | "sweep";
  cost: bigint;
  print: bigint;
}

/** @returns the decision in words */
export function end(world: World, it: End, now: Micros): string {
  const account = accountOf(world, it.account);
  const hold = account.holds.get(it.id);
  if (!hold) return "no such hold";
  if (hold.state !== "open") return repeatedEnd(world, hold, it, now);

  if (it.how === "sweep" && !isDue(world, hold, now)) return "not due";
  const charged = it.how === "sweep" ? hold.checkpoint : it.how === "void" ? null : it.cost;
  if (charged !== null && charged > amountOf(hold)) {
    if (it.how === "backend") return "above the hold";
    loseAtHouse(world, it, charged - amountOf(hold), now);
  }
  const state = charged !== null ? "captured" : it.how === "void" ? "voided" : "swept";
  const cost = fill(hold, charged ?? 0n);
  Object.assign(hold, { state, cost, endedAt: now, endPrint: it.print });
  if (charged !== null) hold.seq = account.seq += 1n;
  hold.estimated = it.how === "sweep" && charged !== null;
  account.last = now;
  return charged !== null ? "captured" : "voided";
}

/** Charges the parts of a hold in their order. @returns what they cover */
function fill(hold: Hold, cost: bigint): bigint {
  let left = cost;
  for (const [, part] of [...hold.parts].sort(([a], [b]) => a - b)) {
    part.cost = least(left, part.amount);
    left -= part.cost;
  }
  return cost - left;
}

function repeatedEnd(world: World, hold: Hold, it: End, now: Micros): string {
  const frees = it.how === "void" || it.how === "sweep";
  if (hold.state === "captured") {
    if (frees) return "ended otherwise";
    return hold.endPrint === it.print ? "captured before" : "other end before";
  }
  if (frees) return "voided before";
  if (it.how === "gateway" && it.cost > 0n) loseAtHouse(world, it, it.cost, now);
  return "ended otherwise";
}

/** What the upstream cost us and no hold covers: once per hold, never the customer's. */
function loseAtHouse(world: World, { account, id }: End, amount: bigint, now: Micros): void {
  const reference = `a${account}/h${id}`;
  if (world.journal.some((it) => it.kind === "loss" && it.reference === reference)) return;
  world.journal.push({
    kind: "loss",
    from: "loss",
    to: "upstream_cost",
    amount,
    reference,
    at: now,
  });
}

const gatewayLives = ({ clock, gatewaySeen }: World): boolean =>
  gatewaySeen !== null && gatewaySeen > clock - 60 * SECOND;

const firstOf = (hold: Hold) => at([...hold.parts.values()], 0);

/** Past its deadline, or its gateway's lease has lapsed. */
function isDue(world: World, hold: Hold, now: Micros): boolean {
  const { deadline, own } = firstOf(hold);
  return deadline <= now || (own && !gatewayLives(world));
}

/** What the sweep looks for, by the clock: a gateway that lives gets 30 s more than the deadline. */
function isSought(world: World, hold: Hold): boolean {
  const { deadline, own } = firstOf(hold);
  const { clock, gatewaySeen } = world;
  const patience = own && gatewayLives(world) ? 30 * SECOND : 0;
  const orphaned = own && gatewaySeen !== null && !gatewayLives(world);
  return deadline <= clock - patience || orphaned;
}

/**
 * Ends every hold that is due. A gateway that has lapsed and has no hold left is forgotten.
 *
 * @param order in which those of an account got their usage numbers, which nothing prescribes
 */
export function sweep(world: World, order: { account: number; id: number }[]) {
  const swept = { captured: 0, voided: 0 };
  for (const [i, account] of world.accounts.entries()) {
    const placeOf = (id: number) => order.findIndex((it) => it.account === i && it.id === id);
    const due = [...account.holds].filter(
      ([, hold]) => hold.state === "open" && isSought(world, hold),
    );
    const now = instant(world, account);
    for (const [id] of due.sort(([a], [b]) => placeOf(a) - placeOf(b))) {
      const word = end(world, { account: i, id, how: "sweep", cost: 0n, print: 0n }, now);
      swept[word === "captured" ? "captured" : "voided"] += 1;
    }
  }
  const busy = world.accounts.some((it) => partsOf(openOf(it)).some((part) => part.own));
  if (!gatewayLives(world) && !busy) world.gatewaySeen = null;
  return swept;
}

export interface Extension {
  account: number;
  id: number;
  seconds: number;
  checkpoint: bigint | null;
}

/** Moves the deadlines of a request, never back. @returns the new one; undefined: not open */
export function extend(world: World, it: Extension): Micros | undefined {
  const hold = accountOf(world, it.account).holds.get(it.id);
  if (hold?.state !== "open") return undefined;
  for (const part of hold.parts.values()) {
    part.deadline = Math.max(part.deadline, world.clock + it.seconds * SECOND);
  }
  hold.checkpoint = it.checkpoint ?? hold.checkpoint;
  return firstOf(hold).deadline;
}
