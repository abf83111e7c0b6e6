import { creditAccount, resumeAccount, suspendAccount } from "../../src/accounts/accounts.js";
import { Refusal } from "../../src/base/errors.js";
import {
  closePeriod,
  openPeriod,
  type Period,
  readPeriod,
  rollCounters,
} from "../../src/holds/periods.js";
import { renewLease } from "../../src/holds/store.js";
import { changeChildKey, deleteChildKey, rotateChildKey } from "../../src/keys/child-keys.js";
import { sweepExpiredKeys } from "../../src/keys/expiry.js";
import type { ChildKey } from "../../src/keys/key.js";
import { changeManagementKey, deleteManagementKey } from "../../src/keys/management-keys.js";
import * as accounts from "./account-rules.js";
import { playCalls } from "./calls.js";
import { END_DECISIONS } from "./decisions.js";
import * as rules from "./hold-rules.js";
import { at, dayOf, instant, type Micros, monthOf, numberOf, type World } from "./model.js";
import { type Real, type Stage, toldBy } from "./real.js";
import { accountOfChild, CHILDREN, type Jump, MANAGERS, NOBODY, type Step } from "./steps.js";

/** What both did with a step; the same lines where they agree. */
export interface Played {
  told: string[];
  expected: string[];
}

type Of<Kind extends Step["kind"]> = Extract<Step, { kind: Kind }>;
type Players = {
  [Kind in Step["kind"]]: (
    real: Real,
    world: World,
    step: Of<Kind>,
    stage: Stage,
  ) => Promise<Played>;
};

/** Takes a step in the database, through the doors that its callers use, and in the model. */
export async function play(real: Real, world: World, step: Step, stage: Stage): Promise<Played> {
  const player = PLAYERS[step.kind] as Players["calls"];
  return await player(real, world, step as Of<"calls">, stage);
}

const same = (told: unknown, expected: unknown): Played => ({
  told: [`${told}`],
  expected: [`${expected}`],
});

/** What a door told of a change, as a line. */
async function lineOf<T>(call: Promise<T>, line: (answer: T) => string): Promise<string> {
  const answer = await toldBy(call);
  return answer instanceof Refusal ? answer.reason : line(answer);
}

const ownerOf = (real: Real, account: number) =>
  ({ kind: "owner", account: at(real.accounts, account) }) as const;
const ownerOfChild = (real: Real, child: number) => ownerOf(real, accountOfChild(child));
const refOf = (real: Real, child: number) => ({
  managementKey: at(real.managers, at(CHILDREN, child)),
  child: at(real.children, child),
});
const childLine = ({ shownStatus, usedDaily, usedMonthly, usedTotal }: ChildKey): string =>
  `${shownStatus}, used ${usedDaily}/${usedMonthly}/${usedTotal}`;

/** So many seconds from now, to the millisecond; null: never. */
const later = ({ clock }: World, seconds: number | null): Micros | null =>
  seconds === null ? null : Math.floor(clock / 1_000) * 1_000 + seconds * 1_000_000;
const dateOf = (micros: Micros | null): Date | null =>
  micros === null ? null : new Date(micros / 1_000);

const PLAYERS: Players = {
  calls: (real, world, { calls }) => playCalls(real, world, calls),

  /** A child under an account that is not its own, or no child at all. */
  async stray(real, world, { account, child, id }) {
    if (child !== NOBODY && accountOfChild(child) === account) return { told: [], expected: [] };
    const call = { do: "hold", child, id, part: 0, amount: 1n, floor: 0n, print: 1n } as const;
    const played = await playCalls(real, world, [{ ...call, secret: null, seconds: 30, account }]);
    const decision = (line: string) => line.replace(/:.*/, "");
    return { told: played.told.map(decision), expected: played.expected.map(decision) };
  },

  async extend(real, world, step) {
    const extensions = step.extensions.map((it) => ({
      ...it,
      id: numberOf(world, it.account, it.id),
    }));
    const told = await Promise.all(
      extensions.map(async ({ account, id, seconds, checkpoint: cost }) => {
        const hold = { account: at(real.accounts, account), id: at(real.ids, id), seconds };
        const checkpoint = cost === null ? null : { cost, inputTokens: 1n, outputTokens: 2n };
        return await lineOf(
          real.holds.extend({ ...hold, checkpoint }),
          ({ deadline }) => `until ${deadline.getTime()}`,
        );
      }),
    );
    const expected = extensions.map((it) => {
      const deadline = rules.extend(world, it);
      return deadline === undefined ? "hold_ended" : `until ${Math.floor(deadline / 1_000)}`;
    });
    return { told, expected };
  },

  async sweep(real, world) {
    const [swept] = await real.sql`select captured, voided from sweep_holds(1000, '0 seconds')`;
    const rows = await real.sql`
      select account_id, id from ended_hold
       where account_id = any (${real.accounts}::uuid[]) and usage_seq is not null
       order by usage_seq`;
    const order = rows.map((row) => ({
      account: real.accounts.indexOf(row.account_id),
      id: real.ids.indexOf(row.id),
    }));
    const { captured, voided } = rules.sweep(world, order);
    const line = (of: unknown, rest: unknown) => `swept: ${of} captured, ${rest} voided`;
    return same(line(swept?.captured, swept?.voided), line(captured, voided));
  },

  /** As the sweep ends a hold that was ended, or moved on, after it was found. */
  async sweepOne(real, world, { account, id: which }) {
    const id = numberOf(world, account, which);
    const [swept] = await real.sql`
      select decisions from end_holds(
        ${[at(real.accounts, account)]}::uuid[], ${[at(real.ids, id)]}::uuid[], '{1}', '{4}', '{0}',
        '{0}', '{0}', '{true}', '{0}')`;
    const now = instant(world, at(world.accounts, account));
    const it = { account, id, how: "sweep", cost: 0n, print: 0n } as const;
    return same(
      `sweep: ${END_DECISIONS[swept?.decisions ?? 1]}`,
      `sweep: ${rules.end(world, it, now)}`,
    );
  },

  async lease(real, world) {
    await renewLease(real.sql, real.gateway);
    world.gatewaySeen = world.clock;
    return same("renewed", "renewed");
  },

  async settle(real, world, { account, most }) {
    const [settled] = await real.sql`
      select records from settle_account(${at(real.accounts, account)}, ${most})`;
    return same(`settled ${settled?.records}`, `settled ${accounts.settle(world, account, most)}`);
  },

  async credit(real, world, { account, amount, reference }) {
    const [line, name] = [`${real.tag}/r${reference}`, `w/r${reference}`];
    const credit = { account: at(real.accounts, account), amount, reference: line };
    return same(
      await lineOf(creditAccount(real.sql, credit), (it) => `credited ${it.amount}`),
      accounts.credit(world, account, amount, name),
    );
  },

  async child(real, world, { child, to }) {
    const { expires, status, ...limits } = { expires: undefined, status: undefined, ...to };
    const until = expires === undefined ? undefined : later(world, expires);
    const patch = {
      ...limitPatch(limits),
      ...(status === undefined ? {} : { status }),
      ...(until === undefined ? {} : { expiresAt: dateOf(until) }),
    };
    const change = {
      ...limits,
      ...(status === undefined ? {} : { status }),
      ...(until === undefined ? {} : { expires: until }),
    };
    const door = changeChildKey(real.sql, ownerOfChild(real, child), refOf(real, child), patch);
    return same(await lineOf(door, childLine), accounts.changeChild(world, child, change));
  },

  async deleteChild(real, world, { child }) {
    const door = deleteChildKey(real.sql, ownerOfChild(real, child), refOf(real, child));
    return same(await lineOf(door, childLine), accounts.deleteChild(world, child));
  },

  async rotate(real, world, { child, grace }) {
    const minting = { graceSeconds: grace, pepper: "a pepper of thirty-two characters" };
    const door = rotateChildKey(real.sql, ownerOfChild(real, child), refOf(real, child), minting);
    return same(
      await lineOf(door, ({ key }) => childLine(key)),
      accounts.rotateChild(world, child, grace),
    );
  },

  async manager(real, world, { manager, to }) {
    const owner = ownerOf(real, at(MANAGERS, manager));
    const until = "expires" in to ? later(world, to.expires) : null;
    const patch = "expires" in to ? { expiresAt: dateOf(until) } : to;
    const change = "expires" in to ? { expires: until } : to;
    const door = changeManagementKey(real.sql, owner, at(real.managers, manager), patch);
    return same(
      await lineOf(door, (key) => key.status),
      accounts.changeManager(world, manager, change),
    );
  },

  async deleteManager(real, world, { manager }) {
    const owner = ownerOf(real, at(MANAGERS, manager));
    const door = deleteManagementKey(real.sql, owner, at(real.managers, manager));
    return same(await lineOf(door, (key) => key.status), accounts.deleteManager(world, manager));
  },

  async expiries(real, world) {
    await sweepExpiredKeys(real.sql);
    accounts.recordExpiries(world);
    return same("recorded", "recorded");
  },

  async suspend(real, world, { account, suspended }) {
    const id = at(real.accounts, account);
    const door = suspended ? suspendAccount(real.sql, id, "late") : resumeAccount(real.sql, id);
    return same(await lineOf(door, (it) => it.status), accounts.suspend(world, account, suspended));
  },

  async reset(real, world, { period: kind, ago }) {
    const now = world.clock - ago * 86_400_000_000;
    const day = kind === "day" ? dayOf(now) : monthOf(now);
    const period = readPeriod(kind, kind === "day" ? day : day.slice(0, 7));
    return same(await resetPeriod(real, period), accounts.reset(world, kind, day));
  },

  async clock(_real, world, { jump }, stage) {
    world.clock = Math.min(jumped(world.clock, jump), world.horizon);
    await stage.setClock(world.clock);
    return same("set", "set");
  },
};

const limitPatch = (limits: Partial<Record<"daily" | "monthly" | "total", bigint | null>>) => ({
  ...(limits.daily === undefined ? {} : { limitDaily: limits.daily }),
  ...(limits.monthly === undefined ? {} : { limitMonthly: limits.monthly }),
  ...(limits.total === undefined ? {} : { limitTotal: limits.total }),
});

async function resetPeriod({ sql }: Real, period: Period): Promise<string> {
  const state = await openPeriod(sql, period);
  if (state.kind !== "open") return state.kind;
  await rollCounters(sql, period);
  await closePeriod(sql, period);
  return "rolled";
}

/** Where the clock is after a jump; named ends are met a microsecond before. */
export function jumped(clock: Micros, jump: Jump): Micros {
  if (typeof jump === "number") return clock + jump * 1_000_000;
  const now = new Date(clock / 1_000);
  const [year, month, day] = [now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()];
  const next = {
    midnight: () => Date.UTC(year, month, day + 1),
    "month end": () => Date.UTC(year, month + 1, 1),
    "year end": () => Date.UTC(year + 1, 0, 1),
    "29 February": () => nextLeapDay(clock, year),
  };
  return Math.max(next[jump]() * 1_000 - 1, clock + 1);
}

function nextLeapDay(clock: Micros, year: number): number {
  const day = Date.UTC(year + ((4 - (year % 4)) % 4), 1, 29);
  return day * 1_000 > clock + 1 ? day : Math.floor(clock / 1_000) + 1_000;
}
