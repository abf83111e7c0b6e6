import fc from "fast-check";
import type { Which } from "./model.js";

/** What can happen, and how often: the generator of steps, and each step in words. */

export const ACCOUNTS = 2;
/** Account of each management key. */
export const MANAGERS = [0, 0, 1];
/** Management key of each child. */
export const CHILDREN = [0, 0, 1, 2];
/** Ids of holds in one world; more than a script uses. */
export const IDS = 400;
/** Stands for a child that does not exist. */
export const NOBODY = CHILDREN.length;

export const accountOfChild = (child: number): number => MANAGERS[CHILDREN[child] ?? 0] ?? 0;

const pick = <T>(...choices: [weight: number, value: T][]): fc.Arbitrary<T> =>
  fc.oneof(...choices.map(([weight, value]) => ({ weight, arbitrary: fc.constant(value) })));
const bigints = (min: number, max: number) => fc.integer({ min, max }).map(BigInt);
const just = <T>(value: T) => fc.constant(value);

/** Which hold: the next that was never used (or one or two after it), or one that is known. */
const which = (...weights: [number, Which["of"]][]): fc.Arbitrary<Which> =>
  fc.oneof(
    ...weights.map(([weight, of]) => ({
      weight,
      arbitrary: fc.record({ of: just(of), n: fc.nat(of === "new" ? 2 : 30) }),
    })),
  );
const toEnd = which([9, "open"], [3, "any"], [1, "new"]);
const account = fc.nat(ACCOUNTS - 1);
const child = fc.nat(CHILDREN.length - 1);
const manager = fc.nat(MANAGERS.length - 1);
const limit = fc.option(bigints(0, 130), { nil: null, freq: 3 });
/** From now on, or never. */
const expires = pick<number | null>([2, null], [2, 45], [2, 3_700], [2, 100_000], [1, 0], [1, -60]);
const status = pick<"active" | "disabled">([3, "active"], [1, "disabled"]);
const print = pick([8, 1n], [1, 2n]);

const holdOf = (part: fc.Arbitrary<number>, id: fc.Arbitrary<Which>) =>
  fc.record({
    do: just("hold" as const),
    child,
    id,
    part,
    amount: fc.oneof(
      { weight: 12, arbitrary: bigints(1, 60) },
      { weight: 1, arbitrary: bigints(200, 900) },
    ),
    floor: fc.oneof({ weight: 4, arbitrary: just(0n) }, { weight: 1, arbitrary: bigints(1, 20) }),
    /** Version of the secret that authenticated, counted from the current one; null: by none. */
    secret: pick<number | null>([14, null], [14, 0], [4, -1], [1, -2], [1, 1]),
    print,
    seconds: pick([2, 30], [2, 3_600], [2, 90_000]),
  });
const hold = fc.oneof(
  { weight: 8, arbitrary: holdOf(just(0), which([8, "new"], [1, "any"], [1, "open"])) },
  { weight: 3, arbitrary: holdOf(pick([3, 1], [1, 2]), which([8, "open"], [1, "any"])) },
);
const capture = fc.record({
  do: just("capture" as const),
  account,
  id: toEnd,
  how: pick<"backend" | "gateway">([2, "backend"], [1, "gateway"]),
  /** Often the same, so that repeats are the same capture. */
  cost: fc.oneof(
    { weight: 5, arbitrary: bigints(1, 60) },
    { weight: 3, arbitrary: just(5n) },
    { weight: 1, arbitrary: just(0n) },
  ),
  print,
});
const voiding = fc.record({ do: just("void" as const), account, id: toEnd });

const call = fc.oneof(
  { weight: 8, arbitrary: hold },
  { weight: 6, arbitrary: capture },
  { weight: 1, arbitrary: voiding },
);
const calls = (of: fc.Arbitrary<Call>) =>
  fc.record({
    kind: just("calls" as const),
    calls: fc.array(of, { minLength: 1, maxLength: 6 }),
  });

const jump = pick<Jump>(
  [6, 1],
  [6, 61],
  [4, 3_600],
  [3, 86_400],
  [1, 31 * 86_400],
  [2, -1],
  [2, -3_600],
  [2, -86_400],
  [1, -31 * 86_400],
  [3, "midnight"],
  [2, "month end"],
  [1, "year end"],
  [1, "29 February"],
);

export const step = fc.oneof(
  { weight: 60, arbitrary: calls(call) },
  { weight: 20, arbitrary: calls(hold) },
  { weight: 8, arbitrary: calls(fc.oneof(capture, voiding)) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: just("stray" as const),
      account,
      child: fc.nat(NOBODY),
      id: which([2, "new"], [1, "any"]),
    }),
  },
  {
    weight: 14,
    arbitrary: fc.record({
      kind: just("extend" as const),
      extensions: fc.array(
        fc.record({
          account,
          id: toEnd,
          seconds: pick([1, 10], [1, 600], [1, 100_000]),
          checkpoint: fc.option(bigints(0, 80), { nil: null }),
        }),
        { minLength: 1, maxLength: 6 },
      ),
    }),
  },
  { weight: 5, arbitrary: fc.record({ kind: just("sweep" as const) }) },
  { weight: 8, arbitrary: fc.record({ kind: just("sweepOne" as const), account, id: toEnd }) },
  { weight: 6, arbitrary: fc.record({ kind: just("lease" as const) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: just("settle" as const),
      account,
      most: fc.integer({ min: 1, max: 6 }),
    }),
  },
  {
    weight: 12,
    arbitrary: fc.record({
      kind: just("credit" as const),
      account,
      amount: fc.oneof(bigints(1, 90), just(40n)),
      reference: fc.nat(11),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: just("child" as const),
      child,
      to: fc.record({ daily: limit, monthly: limit, total: limit }, { requiredKeys: [] }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: just("child" as const), child, to: fc.record({ status }) }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ kind: just("child" as const), child, to: fc.record({ expires }) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: just("deleteChild" as const), child }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: just("rotate" as const),
      child,
      grace: pick([1, 0], [1, 60], [1, 7_200]),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: just("manager" as const),
      manager,
      to: fc.oneof(
        { weight: 2, arbitrary: fc.record({ status }) },
        { weight: 1, arbitrary: fc.record({ expires }) },
      ),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: pick<"deleteManager" | "expiries">([1, "deleteManager"], [4, "expiries"]),
      manager,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: just("suspend" as const),
      account,
      suspended: pick([1, true], [2, false]),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: just("reset" as const),
      period: pick<"day" | "month">([2, "day"], [1, "month"]),
      /** Days before the clock's. */
      ago: pick([4, 0], [1, 1], [1, -1]),
    }),
  },
  { weight: 14, arbitrary: fc.record({ kind: just("clock" as const), jump }) },
);

/** Seconds, or to a microsecond before the next of these. */
export type Jump = number | "midnight" | "month end" | "year end" | "29 February";
type ValueOf<A> = A extends fc.Arbitrary<infer T> ? T : never;
export type HoldCall = ValueOf<typeof hold>;
export type CaptureCall = ValueOf<typeof capture>;
export type Call = HoldCall | CaptureCall | ValueOf<typeof voiding>;
export type Step = ValueOf<typeof step>;

/** When the worlds of the scripts begin: all near an end of something. */
export const start: fc.Arbitrary<string> = fc.constantFrom("01-30", "02-27", "04-29", "12-30");

const holdInWords = (account: number, { of, n }: Which): string =>
  of === "new" ? `a${account}/new hold +${n}` : `a${account}/${of} hold ${n}`;

const callInWords = (it: Call): string => {
  if (it.do === "void") return `void ${holdInWords(it.account, it.id)}`;
  if (it.do === "capture") {
    const hold = holdInWords(it.account, it.id);
    return `capture ${it.cost} of ${hold} by a ${it.how}, body ${it.print}`;
  }
  const hold = holdInWords(accountOfChild(it.child), it.id);
  const secret = it.secret === null ? "no secret" : `secret ${it.secret}`;
  const floor = it.floor > 0n ? ` (or at least ${it.floor})` : "";
  return `hold ${it.amount}${floor} for c${it.child} as ${hold} part ${it.part}, ${secret}, body ${it.print}, ${it.seconds} s`;
};

const fields = (it: object): string =>
  Object.entries(it)
    .filter(([name]) => name !== "kind")
    .map(([name, value]) => `${name} ${typeof value === "object" && value ? fields(value) : value}`)
    .join(", ");

/** A step as a line that can be read and written down again. */
export function inWords(it: Step): string {
  if (it.kind === "calls") return `at once: ${it.calls.map(callInWords).join("; ")}`;
  if (it.kind === "extend") return `extend: ${it.extensions.map(fields).join("; ")}`;
  return `${it.kind} ${fields(it)}`.trim();
}
