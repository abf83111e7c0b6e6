import { connect as connectSocket, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds, type EngineOptions } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import {
  type Books,
  captureOf,
  expectBooksAreRight,
  holdOf,
  openBooks,
  openDatabase,
} from "../support/books.js";

const PATIENCE = { timeout: 10_000, interval: 5 };

let database: Awaited<ReturnType<typeof openDatabase>>;
let books: Books;
let closing: (() => Promise<unknown>)[];

beforeEach(async () => {
  closing = [];
  database = await openDatabase();
  books = await openBooks(database.sql);
});

afterEach(async () => {
  await expectBooksAreRight(database.sql);
  for (const close of closing.reverse()) await close();
  await database.close();
});

function openEngine(
  options: Partial<EngineOptions> = {},
  url = database.url,
): { holds: Holds; sql: Sql } {
  const sql = connect(url, { name: "test engine", max: 4 });
  const holds = createHolds(sql, { gateway: null, lanes: 1, ...options });
  closing.push(() => sql.end({ timeout: 5 }));
  return { holds, sql };
}

const outcomes = (answers: Promise<unknown>[]) =>
  Promise.all(
    answers.map((answer) =>
      answer.then(
        () => "done",
        (error: { reason?: string }) => error.reason ?? "failed",
      ),
    ),
  );

const count = (all: string[], what: string) => all.filter((it) => it === what).length;

test("of a thousand requests one that makes their batch fail is refused alone", async () => {
  const { holds } = openEngine();
  const requests = Array.from({ length: 1_000 }, (_, i) =>
    holdOf(books, 5n, i === 617 ? { fingerprint: 2n ** 70n } : {}),
  );
  const said = await outcomes(requests.map((request) => holds.authorize(request)));
  expect([count(said, "done"), said[617]]).toEqual([999, "failed"]);

  const captures = requests.map(({ id }, i) =>
    captureOf(books.account, id, i === 3 ? 2n ** 70n : 1n),
  );
  const captured = await outcomes(captures.map((capture) => holds.capture(capture)));
  expect([count(captured, "done"), captured[3], captured[617]]).toEqual([
    998,
    "failed",
    "not_found",
  ]);
});

/** A transaction that opens a hold fails with this code, but for the first time only. */
async function failOnce(code: string): Promise<void> {
  await database.sql.unsafe(`
    create sequence failures;
    grant usage on failures to public;
    create function fail_once() returns trigger language plpgsql as $$
    begin
      if nextval('failures') = 1 then raise exception 'made up' using errcode = '${code}'; end if;
      return new;
    end $$;
    create trigger fail_once before insert on open_hold for each row execute function fail_once();`);
}

test.each([
  ["a deadlock", "40P01"],
  ["a serialization failure", "40001"],
  ["a row that is there already", "23505"],
])("a batch that %s undid is done again without its callers knowing", async (_what, code) => {
  const { holds } = openEngine();
  await failOnce(code);
  const requests = Array.from({ length: 50 }, () => holdOf(books, 5n));
  const answers = await Promise.all(requests.map((request) => holds.authorize(request)));
  expect(answers.every((answer) => answer.amount === 5n && answer.repeated === null)).toBe(true);
});

/** Passes bytes to Postgres and back; `cut` ends a connection instead of passing its next answer. */
async function openProxy(): Promise<{ url: string; cut(): void; wasCut: () => boolean }> {
  const target = new URL(database.url);
  const { hostname, port } = target;
  let cutting = false;
  let done = false;
  const sockets = new Set<Socket>();
  const server: Server = createServer((client) => {
    const postgres = connectSocket(Number(port), hostname);
    for (const socket of [client, postgres]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => [client, postgres].map((it) => it.destroy()));
    }
    client.on("data", (bytes) => postgres.write(bytes));
    postgres.on("data", (bytes) => {
      if (!cutting) return void client.write(bytes);
      [cutting, done] = [false, true];
      client.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  target.port = String(address.port);
  const cut = () => {
    cutting = true;
  };
  return { url: target.href, cut, wasCut: () => done };
}

test("a connection that is lost after the commit and before the answer is not noticed by who waits", async () => {
  const proxy = await openProxy();
  const { holds } = openEngine({}, proxy.url);
  await holds.authorize(holdOf(books, 1n)); // so that statements are prepared and one answer is one chunk
  const requests = Array.from({ length: 20 }, () => holdOf(books, 5n));
  await Promise.all(
    requests.map((request) => holds.authorize({ ...request, id: holdOf(books, 1n).id })),
  );

  proxy.cut();
  const answers = await Promise.all(requests.map((request) => holds.authorize(request)));
  expect(proxy.wasCut()).toBe(true);
  expect(answers.map((answer) => answer.amount)).toEqual(requests.map(() => 5n));
  expect(answers.every((answer) => answer.repeated === "open")).toBe(true);
  const held = await database.sql`select count(*)::int as n from open_hold`;
  expect(held).toEqual([{ n: 41 }]);
});

test("a capture whose answer is lost is paid once, and told as what it is", async () => {
  const proxy = await openProxy();
  const { holds } = openEngine({}, proxy.url);
  const [first, second] = [holdOf(books, 9n), holdOf(books, 9n)];
  await Promise.all([holds.authorize(first), holds.authorize(second)]);
  await holds.capture(captureOf(books.account, first.id, 7n));

  proxy.cut();
  const captured = await holds.capture(captureOf(books.account, second.id, 7n));
  expect(proxy.wasCut()).toBe(true);
  expect(captured).toMatchObject({ cost: 7n, held: 9n, usageSeq: 2n });
});

/** Keeps the account locked, so that a batch that wants it is in flight until `release`. */
async function lockAccount(): Promise<() => Promise<void>> {
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  let locked = () => {};
  const isLocked = new Promise<void>((resolve) => {
    locked = resolve;
  });
  const over = database.sql.begin(async (tx) => {
    await tx`select from lock_accounts(${[books.account]}::uuid[])`;
    locked();
    await released;
  });
  await isLocked;
  return async () => {
    release();
    await over;
  };
}

const waitingBackends = () => database.sql<{ pid: number }[]>`
  select pid from pg_stat_activity
   where datname = current_database() and application_name = 'test engine' and wait_event_type = 'Lock'`;

async function untilInFlight(): Promise<number> {
  return await vi.waitFor(async () => {
    const [backend] = await waitingBackends();
    if (!backend) throw new Error("no batch in flight");
    return backend.pid;
  }, PATIENCE);
}

test("a batch whose backend is terminated in flight is done again without its callers knowing", async () => {
  const { holds } = openEngine();
  const release = await lockAccount();
  const answers = Promise.all(Array.from({ length: 30 }, () => holds.authorize(holdOf(books, 5n))));
  const pid = await untilInFlight();
  await database.sql`select pg_terminate_backend(${pid})`;
  await release();
  expect((await answers).every((answer) => answer.repeated === null)).toBe(true);
});

test("what finds the queue full is told at once how long to wait, and nothing that was queued is lost", async () => {
  const { holds } = openEngine({ depth: 5, limit: 2 });
  const release = await lockAccount();
  const first = holds.authorize(holdOf(books, 5n));
  await untilInFlight();
  const queued = Array.from({ length: 5 }, () => holds.authorize(holdOf(books, 5n)));
  const refused = await holds.authorize(holdOf(books, 5n)).catch((error: unknown) => error);
  expect(refused).toMatchObject({ reason: "busy", details: { shouldRetry: true } });
  expect(refused).toHaveProperty("details.retryAfter", expect.any(Number));
  await release();
  await Promise.all([first, ...queued]);
  await holds.authorize(holdOf(books, 5n));
});

test("the longer the database takes, the later those who find the queue full are asked to come again", async () => {
  const { holds } = openEngine({ depth: 1 });
  const release = await lockAccount();
  const first = holds.authorize(holdOf(books, 5n));
  await untilInFlight();
  const queued = holds.authorize(holdOf(books, 5n));
  const askedFor = () =>
    holds.authorize(holdOf(books, 5n)).then(
      () => 0,
      (error: { details: { retryAfter: number } }) => error.details.retryAfter,
    );
  expect(await askedFor()).toBeGreaterThanOrEqual(1);
  await vi.waitFor(async () => expect(await askedFor()).toBeGreaterThan(1), PATIENCE);
  await release();
  await Promise.all([first, queued]);
});
