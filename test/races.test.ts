import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { type Id, newId } from "../src/base/ids.js";
import type { Sql } from "../src/db/sql.js";
import {
  type Books,
  expectBooksAreRight,
  type Opening,
  openBooks,
  openDatabase,
  setClock,
} from "./support/books.js";
import type { RaceReport } from "./support/racer.js";
import { type Racers, startRacers, tally } from "./support/racers.js";

const PROCESSES = 4;
const REQUESTS = 1_000;
const FIT = 50;
const COST = 1_000n;
const FITTING = COST * BigInt(FIT);

let sql: Sql;
let close: () => Promise<void>;
let racers: Racers;

beforeAll(async () => {
  const database = await openDatabase(4);
  ({ sql, close } = database);
  racers = await startRacers(database.url);
});
afterAll(async () => {
  await racers?.stop();
  await close?.();
});
afterEach(() => expectBooksAreRight(sql));

/** All processes ask for their ids at once. */
const race = ({ account, child }: Books, ids: Id[][], amount = COST): Promise<RaceReport[]> =>
  racers.race(
    ids.map((own) => ({ kind: "authorize", account, child, ids: own, amount: `${amount}` })),
  );

const newIds = (count: number): Id[] => Array.from({ length: count }, newId);
const freshIds = (): Id[][] =>
  Array.from({ length: PROCESSES }, () => newIds(REQUESTS / PROCESSES));

const one = async (books: Books, amount: bigint): Promise<Record<string, number>> =>
  tally(await race(books, [newIds(1)], amount));

const LIMITS: [name: string, opening: Opening, reason: string][] = [
  ["a daily limit", { limitDaily: FITTING }, "child_key_limit_exceeded"],
  ["a monthly limit", { limitMonthly: FITTING }, "child_key_limit_exceeded"],
  ["a total limit", { limitTotal: FITTING }, "child_key_limit_exceeded"],
  ["a balance", { balance: FITTING }, "insufficient_balance"],
  [
    "all limits and the balance together",
    { balance: FITTING, limitDaily: FITTING, limitMonthly: FITTING, limitTotal: FITTING },
    "child_key_limit_exceeded",
  ],
];

// LiteLLM #34732, #26672; new-api #6609, #5690; Bifrost #3547: more was spent than allowed
test.each(LIMITS)(
  "%s that fits 50 admits exactly 50 of 1,000 at once, from four processes",
  async (_, opening, reason) => {
    const books = await openBooks(sql, opening);
    const answers = tally(await race(books, freshIds()));
    expect(answers).toEqual({ held: FIT, [reason]: REQUESTS - FIT });
  },
);

// LiteLLM #30460, #40050: refused although there was room
test.each(LIMITS)(
  "at rest after a race for %s, what fits is admitted, and one ngonka more is refused",
  async (_, opening, reason) => {
    const books = await openBooks(sql, opening);
    const reports = await race(books, freshIds());
    expect(await one(books, 1n)).toEqual({ [reason]: 1 });
    const back = reports.flatMap((report) => report.held ?? []).slice(0, 7);
    const { account } = books;
    await racers.race([{ kind: "end", account, ids: back, how: "void", cost: "0" }]);
    expect(await one(books, 7n * COST + 1n)).toEqual({ [reason]: 1 });
    expect(await one(books, 7n * COST)).toEqual({ held: 1 });
    expect(await one(books, 1n)).toEqual({ [reason]: 1 });
  },
);

test("an id asked for by four processes at once is held once, and all get the same decision", async () => {
  const books = await openBooks(sql, { limitDaily: FITTING });
  const ids = newIds(REQUESTS / PROCESSES);
  const reports = await race(books, [ids, [...ids].reverse(), ids, [...ids].reverse()]);
  const refused = ids.length - FIT;
  expect(tally(reports)).toEqual({
    held: FIT,
    repeated: FIT * (PROCESSES - 1),
    child_key_limit_exceeded: refused * PROCESSES,
  });
  const admitted = reports.map(({ held = [], repeated = [] }) => [...held, ...repeated].sort());
  for (const each of admitted) expect(each).toEqual(admitted[0]);
  const [row] = await sql`select held from account where id = ${books.account}`;
  expect(row?.held).toBe(FITTING);
});

const PATIENCE = { timeout: 20_000, interval: 20 };

describe("while 1,000 are under way", () => {
  afterEach(() => setClock(sql, new Date().toISOString(), { runs: true }));

  /** Holds that are open, by the day in which they were admitted. */
  const heldBy = async (books: Books): Promise<Record<string, number>> => {
    const rows = await sql<{ day: string; n: number }[]>`
      select day::text, count(*)::int as n from open_hold
       where account_id = ${books.account} group by 1 order by 1`;
    return Object.fromEntries(rows.map(({ day, n }) => [day, n]));
  };

  const midnights: [name: string, opening: Opening][] = [
    ["a daily limit of 50 admits exactly 50 before midnight and 50 after", { limitDaily: FITTING }],
    [
      "a monthly limit of 50 admits exactly 50 before the month ends and 50 after",
      { limitMonthly: FITTING },
    ],
    [
      "both limits at 50 admit exactly 50 before the month ends and 50 after",
      { limitDaily: FITTING, limitMonthly: FITTING },
    ],
  ];
  test.each(midnights)("%s, as the clock passes it", async (_, opening) => {
    const books = await openBooks(sql, opening);
    const { account, child } = books;
    await setClock(sql, "2026-11-30T23:59:59.900Z");
    const lanes = REQUESTS / PROCESSES;
    const pouring = racers.pour({ account, child, amount: COST, lanes });
    const before = { "2026-11-30": FIT };
    await vi.waitFor(async () => expect(await heldBy(books)).toEqual(before), PATIENCE);
    await setClock(sql, "2026-11-30T23:59:59.950Z", { runs: true });
    const after = { ...before, "2026-12-01": FIT };
    await vi.waitFor(async () => expect(await heldBy(books)).toEqual(after), PATIENCE);
    const { held, child_key_limit_exceeded: refused, ...others } = await pouring.stop();
    expect({ held, others }).toEqual({ held: 2 * FIT, others: {} });
    expect(refused).toBeGreaterThan(REQUESTS / 2);
    expect(await heldBy(books)).toEqual(after);
  });

  test("a clock that is set back over midnight opens no day again", async () => {
    const books = await openBooks(sql, { limitDaily: FITTING });
    const admitted: (number | undefined)[] = [];
    for (const at of ["3T23:59:59Z", "4T00:00:01Z", "3T23:59:58Z", "4T00:00:02Z", "3T12:00:00Z"]) {
      await setClock(sql, `2026-12-0${at}`, { runs: true });
      admitted.push(tally(await race(books, freshIds())).held);
    }
    expect(admitted).toEqual([FIT, FIT, undefined, undefined, undefined]);
    expect(await heldBy(books)).toEqual({ "2026-12-03": FIT, "2026-12-04": FIT });
  });
});
