import { expect, test } from "vitest";
import type { Sql } from "../../src/db/sql.js";
import { END_DECISIONS, HOLD_DECISIONS } from "./decisions.js";
import { runLane, type Tally } from "./lane.js";

/** Steps in all; `KT_STEPS=1000000 npm test -- test/model` for a long run. */
const STEPS = Number(process.env.KT_STEPS ?? 20_000);
const SEED = Number(process.env.KT_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** Databases that are worked on side by side. */
const LANES = Number(process.env.KT_LANES ?? 2);
const PATH = process.env.KT_PATH;
/** From here on every decision must have been met. */
const ENOUGH = 20_000;

const total = (tallies: Tally[], of: (tally: Tally) => Map<string, number>) => {
  const sums = new Map<string, number>();
  for (const [name, n] of tallies.flatMap((tally) => [...of(tally)])) {
    sums.set(name, (sums.get(name) ?? 0) + n);
  }
  return sums;
};

const inOrder = (counts: Map<string, number>): string =>
  [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([name, n]) => `${name} ${n}`)
    .join(", ");

test(
  `the database does what the reference model says, step by step (${STEPS} steps, seed ${SEED})`,
  async () => {
    const lanes = Array.from({ length: LANES }, (_, i) =>
      runLane({ seed: SEED + i, steps: Math.ceil(STEPS / LANES), path: PATH }),
    );
    const tallies = await Promise.all(lanes);
    const sum = (of: "steps" | "worlds" | "checks") =>
      tallies.reduce((all, tally) => all + tally[of], 0);
    const outcomes = total(tallies, (tally) => tally.outcomes);
    console.log(
      `model: seed ${SEED}, ${sum("steps")} steps in ${sum("worlds")} worlds, all books checked ${sum("checks")} times\n` +
        `  steps: ${inOrder(total(tallies, (tally) => tally.kinds))}\n` +
        `  decided: ${inOrder(outcomes)}\n` +
        `  refused: ${inOrder(total(tallies, (tally) => tally.reasons))}`,
    );
    if (PATH !== undefined || STEPS < ENOUGH) return;
    const words = [...Object.values(HOLD_DECISIONS), ...Object.values(END_DECISIONS)];
    expect(words.filter((word) => !outcomes.has(word) && !outcomes.has(`sweep: ${word}`))).toEqual(
      [],
    );
  },
  300_000 + STEPS * 30,
);

test("a database that breaks a rule is found out, with the few steps that it takes and how to see it again", async () => {
  const spoil = (sql: Sql) =>
    sql.unsafe(`
      create function take_one_more() returns trigger language plpgsql
        as $$ begin new.amount := new.amount + 1; return new; end $$;
      create trigger take_one_more before insert on open_hold
        for each row when (new.amount between 7 and 9) execute function take_one_more()`);
  const found = await runLane({ seed: 1, steps: 2_000, spoil }).then(
    () => "nothing",
    (error: Error) => error.message,
  );
  expect(found).toMatch(/; [1-5] steps are left of it/);
  expect(found).toMatch(/\d\. at once: .*\bhold [789] /);
  expect(found).toMatch(/KT_LANES=1 KT_SEED=1 KT_PATH=\d/);
}, 300_000);
