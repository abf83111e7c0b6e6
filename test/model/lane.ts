import fc from "fast-check";
import { checkBooks } from "../../src/check/check.js";
import type { Sql } from "../../src/db/sql.js";
import { play } from "./lockstep.js";
import { dayOf, type Micros, monthOf, type World } from "./model.js";
import { openReal, openStage, type Real, type Stage } from "./real.js";
import { ACCOUNTS, CHILDREN, inWords, MANAGERS, type Step, start, step } from "./steps.js";
import { brokenIn, linesOf, readLines } from "./visible.js";

/** Runs scripts of random steps on a database of its own, one world after the other. */

export interface Run {
  seed: number;
  /** Steps to take. */
  steps: number;
  /** Of a failure to repeat. */
  path?: string | undefined;
  /** What to break in each database, to see whether it is noticed. */
  spoil?: (sql: Sql) => Promise<unknown>;
}

export interface Tally {
  steps: number;
  worlds: number;
  checks: number;
  /** How often each kind of step was taken, what was decided, and why something was refused. */
  kinds: Map<string, number>;
  outcomes: Map<string, number>;
  reasons: Map<string, number>;
}

const LONGEST_SCRIPT = 120;
/** Batches only, however small; or a call for each of up to four. */
const few: fc.Arbitrary<number> = fc.constantFrom(0, 4);
const CHECK_EVERY = 500;
/** A long run says how far it is. */
const TELL_EVERY = 50_000;
/**
 * Worlds in one database: each has 12 years to itself, so that no reset is of two worlds; all are to
 * come, for some invariants go by the real clock, and end before microseconds are no whole numbers.
 */
const WORLDS = 12;
const FIRST_YEAR = 2_104;
const YEARS = 12;

/** What each account has to begin with. */
const OPENING: Step[] = [
  { kind: "credit", account: 0, amount: 200n, reference: 98 },
  { kind: "credit", account: 1, amount: 90n, reference: 99 },
];

const count = (map: Map<string, number>, name: string): void =>
  void map.set(name, (map.get(name) ?? 0) + 1);

/** @throws with the shortest script that fails, in words, and how to run it again */
export async function runLane({ seed, steps, path, spoil }: Run): Promise<Tally> {
  const counts = { kinds: new Map(), outcomes: new Map(), reasons: new Map() };
  const tally: Tally = { steps: 0, worlds: 0, checks: 0, ...counts };
  const lane = createLane(tally, spoil ?? (async () => {}));
  let failed = false;
  const script = fc.array(step, { minLength: 1, maxLength: LONGEST_SCRIPT, size: "max" });
  const property = fc.asyncProperty(start, few, script, async (day, singly, it) => {
    if (tally.steps >= steps && !failed) return;
    try {
      await lane.run(day, singly, it);
    } catch (error) {
      failed = true;
      throw error;
    }
  });
  const shape = { seed, numRuns: Math.ceil(steps / 10), ...(path === undefined ? {} : { path }) };
  try {
    const found = await fc.check(property, shape);
    if (found.failed) throw new Error(report(found), { cause: found.errorInstance });
    await lane.check();
    return tally;
  } finally {
    await lane.close();
  }
}

function report(found: fc.RunDetails<[string, number, Step[]]>): string {
  const [day, singly, script] = found.counterexample ?? ["", 0, []];
  const { seed, counterexamplePath: path, numShrinks, errorInstance } = found;
  const why = errorInstance instanceof Error ? errorInstance.message : String(errorInstance);
  return [
    `the database and the model differ; ${script.length} steps are left of it (${numShrinks} times shrunk):`,
    `  begin on ${day}, 22:00, with a call for each of up to ${singly} items`,
    ...script.map((it, i) => `  ${i + 1}. ${inWords(it)}`),
    "again:",
    `  KT_LANES=1 KT_SEED=${seed} KT_PATH=${path} npm test -- test/model/money.test.ts`,
    why,
  ].join("\n");
}

function createLane(tally: Tally, spoil: (sql: Sql) => Promise<unknown>) {
  let stage: Stage | undefined;
  let worlds = 0;

  async function check(): Promise<void> {
    if (!stage) return;
    const findings = await checkBooks(stage.books);
    tally.checks += 1;
    const problems = findings.flatMap((finding) => finding.violations);
    if (problems.length > 0) throw new Error(problems.join("\n"));
  }
  async function close(): Promise<void> {
    const old = stage;
    stage = undefined;
    worlds = 0;
    await old?.close();
  }
  async function stageOfWorld(): Promise<Stage> {
    if (worlds === WORLDS) {
      await check();
      await close();
    }
    if (!stage) {
      stage = await openStage();
      await spoil(stage.sql);
    }
    return stage;
  }

  return {
    check,
    close,
    async run(day: string, singly: number, script: Step[]): Promise<void> {
      const place = await stageOfWorld();
      const year = FIRST_YEAR + YEARS * worlds++;
      const horizon = Date.UTC(year + YEARS - 1, 0, 1) * 1_000;
      const world = newWorld(Date.parse(`${year}-${day}T22:00:00Z`) * 1_000, horizon);
      const real = await openReal(place, world, singly);
      tally.worlds += 1;
      try {
        for (const it of [...OPENING, ...script]) {
          await takeStep(place, real, world, it, tally);
          if (tally.steps % CHECK_EVERY === 0) await check();
          if (tally.steps % TELL_EVERY === 0) console.log(`model: ${tally.steps} steps agree`);
        }
        await leave(place, real, horizon);
      } catch (error) {
        await close();
        throw error;
      }
    },
  };
}

/** Takes a step, then compares all that was told and all that can be seen. */
async function takeStep(
  stage: Stage,
  real: Real,
  world: World,
  it: Step,
  tally: Tally,
): Promise<void> {
  const before = world.accounts.map(({ last }) => last);
  const { told, expected } = await play(real, world, it, stage);
  tally.steps += 1;
  count(tally.kinds, it.kind);
  for (const line of told) note(tally, line);
  expectSame("was told", told, expected);
  expectSame("stands", await readLines(real.sql, real.accounts, real.nameOf), linesOf(world));
  const broken = brokenIn(world);
  if (world.accounts.some(({ last }, i) => last < (before[i] ?? 0))) broken.push("time went back");
  if (broken.length > 0) throw new Error(broken.join("\n"));
}

/** Counts what a line tells, without its amounts and times. */
function note(tally: Tally, line: string): void {
  const [word = "", rest] = line.split(": ");
  count(tally.outcomes, word === "sweep" ? line : word.replace(/,? (?:used|-?\d).*/, ""));
  const reason = (rest ?? word).match(/^[a-z]+_[a-z_]+/)?.[0];
  if (reason) count(tally.reasons, reason);
}

function expectSame(what: string, real: string[], model: string[]): void {
  if (real.join("\n") === model.join("\n")) return;
  const only = (lines: string[], others: string[]) =>
    lines.filter((line) => !others.includes(line)).map((line) => `    ${line}`);
  const [inReal, inModel] = [only(real, model), only(model, real)];
  throw new Error(
    [`  what ${what} in the database:`, ...inReal, "  in the model:", ...inModel].join("\n"),
  );
}

/** Ends what is open, so that a world to come finds nothing of this one. */
async function leave(stage: Stage, real: Real, at: Micros): Promise<void> {
  await real.holds.close();
  await stage.setClock(at);
  await stage.sql`select * from sweep_holds(1000, '0 seconds')`;
}

/** One account with three children, one with one, and top-ups so that limits and balance bind. */
export function newWorld(clock: Micros, horizon: Micros): World {
  const managers = MANAGERS.map((account) => ({
    account,
    status: "active" as const,
    expires: null,
    recorded: null,
  }));
  const limits = [
    { daily: 100n, monthly: 180n, total: null },
    { daily: null, monthly: null, total: null },
    { daily: null, monthly: 120n, total: 250n },
    { daily: 60n, monthly: null, total: null },
  ];
  return {
    clock,
    horizon,
    gatewaySeen: null,
    accounts: Array.from({ length: ACCOUNTS }, () => ({
      suspended: false,
      last: clock,
      holds: new Map(),
      seq: 0n,
      settled: 0n,
      rolled: 0n,
      posts: [],
    })),
    managers,
    children: CHILDREN.map((manager, i) => ({
      account: MANAGERS[manager] ?? 0,
      manager,
      status: "active",
      expires: null,
      recorded: null,
      version: 1,
      grace: null,
      daily: limits[i]?.daily ?? null,
      monthly: limits[i]?.monthly ?? null,
      total: limits[i]?.total ?? null,
      day: dayOf(clock),
      month: monthOf(clock),
    })),
    journal: [],
    closed: new Set(),
  };
}
