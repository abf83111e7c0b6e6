import { afterAll, beforeAll, expect, test } from "vitest";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { expectBooksAreRight, holdOf, openBooks } from "../support/books.js";
import { freshDatabase, type TestDatabase } from "../support/database.js";

let database: TestDatabase;
let sql: Sql;
let holds: Holds;

beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.url, { name: "regressions", max: 4 });
  holds = createHolds(sql, { gateway: null, lanes: 1 });
});
afterAll(async () => {
  await holds?.close();
  await sql?.end();
  await database?.drop();
});

test("a request under another owner's account does not disturb the child's own in the same batch", async () => {
  const [own, foreign] = [await openBooks(sql), await openBooks(sql)];
  const stray = { account: foreign.account, child: own.child };
  const answers = await Promise.allSettled([
    holds.authorize(holdOf(own, 5n)),
    holds.authorize(holdOf(stray, 5n)),
  ]);
  expect(answers.map(({ status }) => status)).toEqual(["fulfilled", "rejected"]);
  await expectBooksAreRight(sql);
});
