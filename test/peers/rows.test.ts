import { afterAll, beforeAll, expect, test } from "vitest";
import type { Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import { settleShard } from "../../src/ledger/ledger.js";
import { captureOf, holdOf } from "../support/asking.js";
import { expectBooksAreRight, openBooks, openDatabase } from "../support/books.js";

const REQUESTS = 10_000;
const MOST_BYTES = 400;
const SHARDS = [0, 1, 2, 3];

let sql: Sql;
let close: () => Promise<void>;
beforeAll(async () => {
  ({ sql, close } = await openDatabase());
});
afterAll(() => close?.());

/** Of all our tables with their indexes, but for open holds, whose rows live for seconds. */
async function bytesKept(): Promise<number> {
  await sql`vacuum full account, child_key`;
  const [row] = await sql<{ bytes: number }[]>`
    select sum(pg_total_relation_size(oid))::float8 as bytes from pg_class
     where relnamespace = 'public'::regnamespace and relkind = 'r' and relname <> 'open_hold'`;
  return row?.bytes ?? 0;
}

// LiteLLM #41499: 6.3 KB are kept of each request
test("a paid and settled request leaves less than 400 bytes in the database, indexes and all", async () => {
  const books = await openBooks(sql);
  const holds = createHolds(sql, { gateway: null });
  const before = await bytesKept();
  await Promise.all(
    Array.from({ length: REQUESTS }, async () => {
      const asked = holdOf(books, 1_000_000n);
      await holds.authorize(asked);
      await holds.capture(captureOf(books.account, asked.id, 987_654n));
    }),
  );
  await holds.close();
  for (const shard of SHARDS) await settleShard(sql, shard);
  const [row] = await sql`select usage_seq, settled_seq from account where id = ${books.account}`;
  expect(row).toEqual({ usage_seq: BigInt(REQUESTS), settled_seq: BigInt(REQUESTS) });
  const each = ((await bytesKept()) - before) / REQUESTS;
  expect(each).toBeGreaterThan(100);
  expect(each).toBeLessThan(MOST_BYTES);
  await expectBooksAreRight(sql);
});
