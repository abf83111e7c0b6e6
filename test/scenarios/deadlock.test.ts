import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, test, vi } from "vitest";
import { TYPESCRIPT } from "../../src/dev/processes.js";
import { expectBooksAreRight, openBooks, openChild, openDatabase } from "../support/books.js";
import type { HammerOrder, HammerReport } from "./hammer.js";

/** `KT_MINUTES=10 npm test -- test/scenarios/deadlock.test.ts` for a long run. */
const SECONDS = Number(process.env.KT_MINUTES ?? 1) * 60;
const PROCESSES = 3;
const ACCOUNTS = 8;
const HAMMER = fileURLToPath(new URL("./hammer.ts", import.meta.url));

async function hammer(url: string, order: HammerOrder): Promise<HammerReport> {
  const child = fork(HAMMER, [url], { execArgv: TYPESCRIPT, serialization: "advanced" });
  const ended = once(child, "exit");
  await once(child, "message");
  const answer = once(child, "message");
  child.send(order);
  const [report] = await answer;
  await ended;
  return report as HammerReport;
}

// LiteLLM #34887: deadlocks between batches, and what they had to write was dropped
test("settlement, limit changes, top-ups, sweeps, rotations and resets never deadlock with batches over the same accounts", {
  timeout: SECONDS * 1_000 + 60_000,
}, async () => {
  const { url, sql, close } = await openDatabase();
  const books = await Promise.all(Array.from({ length: ACCOUNTS }, () => openBooks(sql)));
  await Promise.all(books.map((it) => openChild(sql, it.owner, it.managementKey)));
  const order = (i: number) => ({ books: i % 2 ? books : [...books].reverse(), seconds: SECONDS });
  const reports = await Promise.all(
    Array.from({ length: PROCESSES }, (_, i) => hammer(url, order(i))),
  );
  expect(reports.flatMap(({ errors }) => errors)).toEqual([]);
  for (const { done } of reports) {
    expect(Object.values(done).every((times) => times > 5)).toBe(true);
    expect(Object.keys(done)).toHaveLength(7);
  }
  // A session's counts are written when it ends
  await vi.waitFor(async () => {
    const [row] = await sql<{ n: number }[]>`
      select count(*)::int as n from pg_stat_activity where application_name = 'hammer'`;
    expect(row?.n).toBe(0);
  });
  const [stat] = await sql`
    select deadlocks, xact_commit > 1000 as counted from pg_stat_database
     where datname = current_database()`;
  expect(stat).toEqual({ deadlocks: 0n, counted: true });
  await expectBooksAreRight(sql);
  await close();
});
