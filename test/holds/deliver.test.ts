import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { captureEnding, settleEnding } from "../../src/holds/delivery/ending.js";
import { sweepHolds } from "../../src/holds/sweep.js";
import { captureOf, holdOf } from "../support/asking.js";
import { type Books, expectBooksAreRight, openBooks } from "../support/books.js";
import {
  type Cashier,
  openCashier,
  ownCapture,
  PATIENCE,
  type Server,
  startServer,
} from "./outage.js";

const LONG = { timeout: 90_000 };

let server: Server;
let sql: Sql;
let books: Books;
let dataDir: string;
let cashiers: Cashier[] = [];
beforeAll(async () => {
  server = await startServer();
  sql = connect(server.url, { name: "test", max: 3 });
});
afterAll(async () => {
  await sql?.end({ timeout: 5 });
  await server?.close();
});
beforeEach(async () => {
  dataDir = mkdtempSync(join(tmpdir(), "keytoll-deliver-"));
  books = await openBooks(sql);
});
afterEach(async () => {
  await Promise.all(cashiers.map((cashier) => cashier.close()));
  cashiers = [];
  rmSync(dataDir, { recursive: true, force: true });
});

async function aCashier(parts: { spoolLimit?: number } = {}): Promise<Cashier> {
  const cashier = await openCashier({ url: server.url, dataDir, ...parts });
  cashiers.push(cashier);
  return cashier;
}

async function closed(cashier: Cashier): Promise<void> {
  cashiers = cashiers.filter((it) => it !== cashier);
  await cashier.close();
}

const outcomes = async () =>
  await sql<{ outcome: string; cost: number; n: number }[]>`
    select outcome, cost::int, count(*)::int as n from ended_hold
     where account_id = ${books.account} group by 1, 2 order by 1, 2`;

const losses = async () => {
  const [row] = await sql<{ n: number; total: number }[]>`
    select count(*)::int as n, coalesce(sum(amount), 0)::int as total from transfer
     where kind = 'loss' and reference like ${`${books.account}/%`}`;
  return row;
};

/** Everything held was captured at 70, counters say so, and all invariants hold. */
async function expectAllPaid(count: number): Promise<void> {
  expect(await outcomes()).toEqual([{ outcome: "captured", cost: 70, n: count }]);
  const [child] = await sql`
    select used_daily::int, used_monthly::int, held::int, requests_total::int
      from child_key where id = ${books.child}`;
  const used = 70 * count;
  expect(child).toEqual({
    ...{ used_daily: used, used_monthly: used, held: 0, requests_total: count },
  });
  expect(await losses()).toEqual({ n: 0, total: 0 });
  await expectBooksAreRight(sql);
}

const holdsOf = (cashier: Cashier, count: number, seconds?: number) =>
  Promise.all(Array.from({ length: count }, () => cashier.hold(books, seconds)));

const captureAll = (cashier: Cashier, holds: string[]) =>
  Promise.all(holds.map((id) => cashier.delivery.capture(ownCapture(books, id), 100n)));

const spoolFiles = () =>
  readdirSync(dataDir, { recursive: true, encoding: "utf8" }).filter((it) => it.endsWith(".spool"));

test(
  "with Postgres and Temporal away finished requests go to the spool, and are paid once after",
  LONG,
  async () => {
    const cashier = await aCashier();
    const holds = await holdsOf(cashier, 50);
    await server.stop();
    expect(await captureAll(cashier, holds)).toEqual(holds.map(() => 70n));
    expect(cashier.delivery.standing()).toMatchObject({
      waiting: { memory: 0, workflow: 0, spool: 50 },
      handedOver: { workflow: 0, spool: 50 },
    });
    expect(spoolFiles()).toHaveLength(1);

    await server.start();
    await vi.waitFor(() => expect(cashier.delivery.standing().waiting.spool).toBe(0), PATIENCE);
    await vi.waitFor(() => expect(spoolFiles()).toEqual([]));
    await expectAllPaid(50);
  },
);

test(
  "what a gateway left in the spool is paid by the next one on its data folder, once",
  LONG,
  async () => {
    const first = await aCashier();
    const holds = await holdsOf(first, 20);
    await server.stop();
    await captureAll(first, holds);
    await closed(first);
    await server.start();
    expect((await outcomes()).length).toBe(0);

    const [second, third] = [await aCashier(), await aCashier()];
    const delivered = await Promise.all([second.delivery.deliver(), third.delivery.deliver()]);
    expect(delivered).toEqual([true, true]);
    await expectAllPaid(20);
    await vi.waitFor(() => expect(spoolFiles()).toEqual([]));
  },
);

test(
  "Postgres out past the deadline with captures in the spool: all paid, none voided first",
  LONG,
  async () => {
    const cashier = await aCashier();
    const holds = await holdsOf(cashier, 30, 1);
    await server.stop();
    await captureAll(cashier, holds);
    // As a gateway that is gone: only its spool knows of the captures, and its lease is not renewed
    await closed(cashier);
    await server.start();
    await sql`update gateway set seen_at = seen_at - interval '1 hour'`;
    await vi.waitFor(async () => {
      const [row] = await sql`
      select count(*)::int as n from open_hold where deadline < clock_timestamp()`;
      expect(row?.n).toBe(30);
    }, PATIENCE);
    for (let round = 0; round < 5; round += 1) {
      expect(await sweepHolds(sql)).toEqual({ captured: 0, voided: 0 });
    }

    const next = await aCashier();
    await Promise.all([next.delivery.deliver(), sweepHolds(sql), sweepHolds(sql)]);
    await expectAllPaid(30);
  },
);

/** As if Postgres had been up for an hour. */
async function startedLongAgo(): Promise<void> {
  await sql.unsafe(`
    create or replace function public.pg_postmaster_start_time() returns timestamptz language sql
      as $$ select clock_timestamp() - interval '1 hour' $$;
    alter function sweep_holds(int, interval) set search_path = public, pg_catalog`);
}

test(
  "after nobody could reach Postgres for a while gateways deliver first, and only then is swept",
  LONG,
  async () => {
    await startedLongAgo();
    const cashier = await aCashier();
    const [spooled, left] = (await holdsOf(cashier, 2, 0)) as [string, string];
    await sql`delete from sweep_pulse`;
    await sql`
    insert into sweep_pulse
    values (true, clock_timestamp() - interval '46 seconds', '-infinity')`;
    await sql`update open_hold set deadline = deadline - interval '1 hour'`;
    for (let round = 0; round < 3; round += 1) {
      expect(await sweepHolds(sql)).toEqual({ captured: 0, voided: 0 });
    }
    await cashier.delivery.capture(ownCapture(books, spooled), 100n);
    await sql`
    update sweep_pulse set resumed_at = resumed_at - interval '45 seconds',
                           seen_at = seen_at - interval '44 seconds'`;
    expect(await sweepHolds(sql)).toEqual({ captured: 0, voided: 1 });
    const [row] = await sql`select outcome from ended_hold where id = ${left}`;
    expect(row).toEqual({ outcome: "swept" });
    await expectBooksAreRight(sql);
  },
);

test(
  "a gateway that lives has 30 s more than the deadline, one that is gone has not",
  LONG,
  async () => {
    await startedLongAgo();
    await sql`delete from sweep_pulse`;
    const [alive, gone] = [await aCashier(), await aCashier()];
    const [late, later] = (await holdsOf(alive, 2)) as [string, string];
    const orphan = await gone.hold(books);
    const backend = holdOf(books, 100n);
    await alive.holds.authorize(backend);
    await sql`
    update open_hold set deadline = clock_timestamp()
      - case when id = ${later} then interval '31 seconds' else interval '29 seconds' end`;
    await sql`
    update gateway set seen_at = seen_at - interval '61 seconds' where id = ${gone.gateway}`;
    await sweepHolds(sql);
    const open = await sql`select id from open_hold where account_id = ${books.account}`;
    expect([...open]).toEqual([{ id: late }]);
    const swept = await sql`
    select id from ended_hold where outcome = 'swept' and account_id = ${books.account}`;
    expect(swept.map((row) => row.id).sort()).toEqual([later, orphan, backend.id].sort());
    await sql`update open_hold set deadline = clock_timestamp() - interval '31 seconds'`;
    await sweepHolds(sql);
  },
);

test(
  "a workflow, a replay and a sweep at the same moment end each hold once, and no cost is silent",
  LONG,
  async () => {
    await startedLongAgo();
    await sql`delete from sweep_pulse`;
    const [one, two] = [await aCashier(), await aCashier()];
    const holds = await holdsOf(one, 200);
    await sql`update open_hold set deadline = clock_timestamp() - interval '1 hour'`;
    const endings = holds.map((id) => captureEnding(ownCapture(books, id)));
    const settleAll = (till: Cashier) =>
      Promise.all(endings.map((ending) => settleEnding(till, ending)));
    const [ones, twos] = await Promise.all([
      settleAll(one),
      settleAll(two),
      sweepHolds(sql),
      sweepHolds(two.sql),
    ]);
    expect(ones).toEqual(twos);
    const captured = ones.filter(({ kind }) => kind === "captured").length;
    expect(ones.filter(({ kind }) => kind === "too_late")).toHaveLength(200 - captured);
    expect(await losses()).toEqual({ n: 200 - captured, total: 70 * (200 - captured) });
    const ended = await sql`
    select count(*)::int as n, count(usage_seq)::int as paid from ended_hold
     where account_id = ${books.account}`;
    expect(ended[0]).toEqual({ n: 200, paid: captured });
    await expectBooksAreRight(sql);
  },
);

test(
  "what a stream cost above the checkpoint that a sweep captured is the house's loss, once",
  LONG,
  async () => {
    await startedLongAgo();
    await sql`delete from sweep_pulse`;
    const cashier = await aCashier();
    const id = await cashier.hold(books);
    const checkpoint = { cost: 30n, inputTokens: 3n, outputTokens: 1n };
    await cashier.holds.extend({ account: books.account, id, seconds: 1, checkpoint });
    await sql`update open_hold set deadline = clock_timestamp() - interval '1 hour'`;
    expect(await sweepHolds(sql)).toEqual({ captured: 1, voided: 0 });
    for (let round = 0; round < 2; round += 1) {
      const late = cashier.delivery.capture(ownCapture(books, id), 100n);
      await expect(late).rejects.toMatchObject({ reason: "hold_ended" });
    }
    expect(await outcomes()).toEqual([{ outcome: "captured", cost: 30, n: 1 }]);
    expect(await losses()).toEqual({ n: 1, total: 40 });
    await expectBooksAreRight(sql);
  },
);

test("a backend is never told captured of what Postgres does not have", LONG, async () => {
  const cashier = await aCashier();
  const request = holdOf(books, 100n);
  await cashier.holds.authorize(request);
  await server.stop();
  const capture = captureOf(books.account, request.id, 70n);
  await expect(cashier.holds.capture(capture)).rejects.toMatchObject({ reason: "not_ready" });
  expect(cashier.delivery.standing().waiting).toEqual({ memory: 0, workflow: 0, spool: 0 });
  await server.start();
  await vi.waitFor(() => cashier.holds.capture(capture), PATIENCE);
  await expectAllPaid(1);
});

test(
  "with the disk full as well the gateway keeps on in memory, and the caller is answered then",
  LONG,
  async () => {
    const cashier = await aCashier({ spoolLimit: 10 });
    const holds = await holdsOf(cashier, 5);
    await server.stop();
    const captures = captureAll(cashier, holds);
    await vi.waitFor(() => {
      expect(cashier.delivery.problem()).toContain("full");
      expect(cashier.delivery.standing().waiting.memory).toBe(5);
    }, PATIENCE);
    await server.start();
    expect(await captures).toEqual(holds.map(() => 70n));
    await expectAllPaid(5);
  },
);

test(
  "a hold that came to nothing is given back after an outage, not kept until its deadline",
  LONG,
  async () => {
    const cashier = await aCashier();
    const id = await cashier.hold(books);
    await server.stop();
    await cashier.delivery.void({ account: books.account, id });
    expect(cashier.delivery.standing().waiting.spool).toBe(1);
    await server.start();
    await vi.waitFor(async () => {
      expect(await outcomes()).toEqual([{ outcome: "voided", cost: 0, n: 1 }]);
    }, PATIENCE);
    await expectBooksAreRight(sql);
  },
);

test("a customer whose request cost more than was held is told what was held", LONG, async () => {
  const cashier = await aCashier();
  const id = await cashier.hold(books);
  await server.stop();
  expect(await cashier.delivery.capture(ownCapture(books, id, 130n), 100n)).toBe(100n);
  await server.start();
  await vi.waitFor(async () => expect(await losses()).toEqual({ n: 1, total: 30 }), PATIENCE);
  expect(await outcomes()).toEqual([{ outcome: "captured", cost: 100, n: 1 }]);
});

test("the spool of another database is told and left where it is", LONG, async () => {
  const first = await aCashier();
  const ending = captureEnding(ownCapture({ ...books, account: newId() }, newId()));
  await first.spool.append({ ending, since: 0 });
  await closed(first);
  const second = await aCashier();
  expect(await second.delivery.deliver()).toBe(true);
  expect(second.delivery.standing()).toMatchObject({ unknown: 1, waiting: { spool: 0 } });
  await closed(second);
  expect(spoolFiles()).toHaveLength(1);
});
