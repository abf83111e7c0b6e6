import { afterAll, beforeAll, expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import type { Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { changeChildKey, rotateChildKey } from "../../src/keys/child-keys.js";
import { holdOf } from "../support/asking.js";
import { type Books, openBooks, openDatabase, PEPPER, setClock } from "../support/books.js";

let sql: Sql;
let close: () => Promise<void>;
let holds: Holds;

beforeAll(async () => {
  ({ sql, close } = await openDatabase());
  holds = createHolds(sql, { gateway: null });
});
afterAll(async () => {
  await holds?.close();
  await close?.();
});

/** As a gateway asks whose cache believes in that version of the secret. */
async function spend(books: Books, secretVersion: number): Promise<string> {
  try {
    await holds.authorize(holdOf(books, 1n, { secretVersion }));
    return "held";
  } catch (error) {
    if (error instanceof Refusal) return error.reason;
    throw error;
  }
}

// Bifrost names no upper bound for how long a rotated key goes on working
test("a secret that was rotated out spends until its grace ends and not an instant longer, whatever a cache believes", async () => {
  await setClock(sql, "2026-11-23T12:00:00Z");
  const books = await openBooks(sql);
  const grace = { graceSeconds: 60, pepper: PEPPER };
  const { previousUntil } = await rotateChildKey(sql, books.owner, books.ref, grace);
  expect([await spend(books, 1), await spend(books, 2)]).toEqual(["held", "held"]);
  const ends = previousUntil.getTime();
  await setClock(sql, new Date(ends - 5).toISOString());
  expect(await spend(books, 1)).toBe("held");
  await setClock(sql, new Date(ends).toISOString());
  expect([await spend(books, 1), await spend(books, 2)]).toEqual(["invalid_api_key", "held"]);
});

test("of several secrets in grace only the last one spends", async () => {
  const books = await openBooks(sql);
  for (const _ of [1, 2]) {
    await rotateChildKey(sql, books.owner, books.ref, { graceSeconds: 60, pepper: PEPPER });
  }
  const answers = [await spend(books, 1), await spend(books, 2), await spend(books, 3)];
  expect(answers).toEqual(["invalid_api_key", "held", "held"]);
});

// LiteLLM #25553: expired keys that were still let in
test("an expired key spends nothing from that instant on, whatever a cache believes, and nothing need record it", async () => {
  await setClock(sql, "2026-11-23T12:00:00Z");
  const books = await openBooks(sql, { expiresAt: new Date("2026-11-23T13:00:00Z") });
  await setClock(sql, "2026-11-23T12:59:59.999Z");
  expect(await spend(books, 1)).toBe("held");
  await setClock(sql, "2026-11-23T13:00:00.001Z");
  expect([await spend(books, 1), await spend(books, 0)]).toEqual([
    "invalid_api_key",
    "child_key_inactive",
  ]);
  const expiresAt = new Date("2026-11-23T14:00:00Z");
  await changeChildKey(sql, books.owner, books.ref, { expiresAt });
  expect(await spend(books, 1)).toBe("held");
});
