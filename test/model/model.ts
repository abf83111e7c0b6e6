/**
 * A page of plain arithmetic that says what the database must do. It knows nothing of batches,
 * locks or SQL.
 */

export interface ModelChild {
  status: "active" | "disabled";
  daily: bigint | null;
  monthly: bigint | null;
  total: bigint | null;
}

interface Part {
  amount: bigint;
  day: string;
  month: string;
  cost: bigint;
}

interface ModelHold {
  child: number;
  state: "open" | "captured" | "voided";
  parts: Map<number, Part & { fingerprint: bigint }>;
  deadline: number;
  endPrint: bigint;
  cost: bigint;
  /** Number of its usage record. */
  seq: bigint;
}

export interface Model {
  posted: bigint;
  usageSeq: bigint;
  children: ModelChild[];
  holds: Map<string, ModelHold>;
}

export const emptyModel = (posted: bigint, children: ModelChild[]): Model => ({
  posted,
  usageSeq: 0n,
  children: children.map((child) => ({ ...child })),
  holds: new Map(),
});

export const dayOf = (at: number): string => new Date(at).toISOString().slice(0, 10);
const monthOf = (at: number): string => `${dayOf(at).slice(0, 7)}-01`;

const lesser = (a: bigint, b: bigint): bigint => (b < a ? b : a);
const sum = (amounts: bigint[]): bigint => amounts.reduce((a, b) => a + b, 0n);
const open = (model: Model) => [...model.holds.values()].filter((hold) => hold.state === "open");
const partsOf = (hold: ModelHold) => [...hold.parts.values()];

export const heldOf = (model: Model): bigint =>
  sum(open(model).flatMap((hold) => partsOf(hold).map((part) => part.amount)));
export const spentOf = (model: Model): bigint =>
  sum([...model.holds.values()].map((hold) => hold.cost));
export const availableOf = (model: Model): bigint => model.posted - spentOf(model) - heldOf(model);

/** Captured plus open of a child, over the parts that `counts` picks. */
export function usedOf(model: Model, child: number, counts: (part: Part) => boolean): bigint {
  const holds = [...model.holds.values()].filter((hold) => hold.child === child);
  return sum(
    holds.flatMap((hold) =>
      partsOf(hold)
        .filter(counts)
        .map((part) => (hold.state === "open" ? part.amount : part.cost)),
    ),
  );
}

/** Ngonka left of each limit at an instant; null where none is set. */
export function remainingOf(model: Model, child: number, at: number) {
  const limits = model.children[child];
  const left = (limit: bigint | null | undefined, used: bigint): bigint | null =>
    limit === null || limit === undefined ? null : limit > used ? limit - used : 0n;
  return {
    daily: left(
      limits?.daily,
      usedOf(model, child, (part) => part.day === dayOf(at)),
    ),
    monthly: left(
      limits?.monthly,
      usedOf(model, child, (part) => part.month === monthOf(at)),
    ),
    total: left(
      limits?.total,
      usedOf(model, child, () => true),
    ),
  };
}

export interface Asked {
  id: string;
  child: number;
  part: number;
  amount: bigint;
  fingerprint: bigint;
  seconds: number;
}

/** @returns "held", "open" or "ended" for a repeat, or the reason of the refusal */
export function authorize(model: Model, asked: Asked, at: number): string {
  const hold = model.holds.get(asked.id);
  const before = hold?.parts.get(asked.part);
  if (hold && before) {
    if (before.fingerprint !== asked.fingerprint) return "idempotency_conflict";
    return hold.state === "open" ? "open" : "ended";
  }
  if (model.children[asked.child]?.status !== "active") return "child_key_inactive";
  if (asked.part > 0 && (hold?.state !== "open" || hold.child !== asked.child)) return "hold_ended";
  const { daily, monthly, total } = remainingOf(model, asked.child, at);
  for (const left of [daily, monthly, total]) {
    if (left !== null && asked.amount > left) return "child_key_limit_exceeded";
  }
  if (asked.amount > availableOf(model)) return "insufficient_balance";

  const opened: ModelHold = hold ?? {
    child: asked.child,
    state: "open",
    parts: new Map(),
    deadline: at + asked.seconds * 1_000,
    endPrint: 0n,
    cost: 0n,
    seq: 0n,
  };
  const { amount, fingerprint } = asked;
  const part = { amount, fingerprint, day: dayOf(at), month: monthOf(at), cost: 0n };
  opened.parts.set(asked.part, part);
  model.holds.set(asked.id, opened);
  return "held";
}

/** @returns "captured" or the reason of the refusal */
export function capture(model: Model, id: string, cost: bigint, print: bigint): string {
  const hold = model.holds.get(id);
  if (!hold) return "not_found";
  if (hold.state === "voided") return "hold_ended";
  if (hold.state === "captured") {
    return hold.endPrint === print ? "captured" : "idempotency_conflict";
  }
  if (cost > sum(partsOf(hold).map((part) => part.amount))) return "capture_exceeds_hold";
  let left = cost;
  for (const [, part] of [...hold.parts].sort(([a], [b]) => a - b)) {
    part.cost = lesser(left, part.amount);
    left -= part.cost;
  }
  model.usageSeq += 1n;
  Object.assign(hold, { state: "captured", cost, endPrint: print, seq: model.usageSeq });
  return "captured";
}

/** @returns "voided" or the reason of the refusal */
export function voidHold(model: Model, id: string): string {
  const hold = model.holds.get(id);
  if (!hold) return "not_found";
  if (hold.state === "captured") return "hold_ended";
  hold.state = "voided";
  return "voided";
}

/** Voids what is past its deadline. @returns how many */
export function sweep(model: Model, at: number): number {
  const due = open(model).filter((hold) => hold.deadline <= at);
  for (const hold of due) hold.state = "voided";
  return due.length;
}
