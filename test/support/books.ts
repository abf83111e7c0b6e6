import { randomBytes } from "node:crypto";
import { expect } from "vitest";
import { creditAccount } from "../../src/accounts/accounts.js";
import { type Id, newId } from "../../src/base/ids.js";
import type { Ngonka } from "../../src/base/money.js";
import { checkBooks } from "../../src/check/check.js";
import { connect, type Sql } from "../../src/db/sql.js";
import type { OwnerCaller } from "../../src/keys/caller.js";
import { createChildKey } from "../../src/keys/child-keys.js";
import type { ChildFields } from "../../src/keys/key.js";
import { createManagementKey } from "../../src/keys/management-keys.js";
import { freshDatabase } from "./database.js";

export { captureOf, holdOf } from "./asking.js";

export const PEPPER = randomBytes(32).toString("hex");

/** An account with money and one child key. */
export interface Books {
  account: Id;
  owner: OwnerCaller;
  managementKey: Id;
  child: Id;
  /** The child by its place. */
  ref: { managementKey: Id; child: Id };
}

export type Opening = Partial<
  Pick<ChildFields, "limitDaily" | "limitMonthly" | "limitTotal" | "expiresAt"> & {
    balance: Ngonka;
  }
>;

/** A database of its own, and a pool on it. */
export async function openDatabase(max = 6): Promise<{
  /** As gateways and workers act on it. */
  url: string;
  /** As the owner of everything in it. */
  sql: Sql;
  close(): Promise<void>;
}> {
  const database = await freshDatabase();
  const sql = connect(database.url, { name: "test", max });
  return {
    url: database.applicationUrl,
    sql,
    async close() {
      await sql.end({ timeout: 5 });
      await database.drop();
    },
  };
}

/** Opens an account with a child key, through the doors that customers use. */
export async function openBooks(sql: Sql, opening: Opening = {}): Promise<Books> {
  const { balance = 10n ** 12n, ...limits } = opening;
  const account = newId();
  await sql`insert into account (id) values (${account})`;
  await sql`
    insert into owner (account_id, email, password_hash, referral_code)
    values (${account}, ${`${account}@example.com`}, 'none', ${account})`;
  await creditAccount(sql, { account, amount: balance, reference: account });
  const owner = { kind: "owner", account } as const;
  const fields = { name: "SaaS", access: "read_write", expiresAt: null } as const;
  const manager = await createManagementKey(sql, owner, fields, PEPPER);
  const managementKey = manager.key.id;
  const child = await openChild(sql, owner, managementKey, limits);
  return { account, owner, managementKey, child, ref: { managementKey, child } };
}

export async function openChild(
  sql: Sql,
  owner: OwnerCaller,
  managementKey: Id,
  fields: Partial<ChildFields> = {},
): Promise<Id> {
  const all = { ...NOTHING_SET, ...fields };
  return (await createChildKey(sql, owner, managementKey, all, PEPPER)).key.id;
}

const NOTHING_SET: ChildFields = {
  ...{ name: "Client A", limitDaily: null, limitMonthly: null, limitTotal: null },
  ...{ rateLimitRpm: null, expiresAt: null, models: null, metadata: {} },
};

/**
 * Sets the clock that money goes by.
 *
 * @param runs true: it goes on from there; else it stands still until it is set again
 */
export async function setClock(sql: Sql, at: string, { runs = false } = {}): Promise<void> {
  const since = runs ? ` + (clock_timestamp() - '${new Date().toISOString()}'::timestamptz)` : "";
  await sql.unsafe(
    `create or replace function keytoll_clock() returns timestamptz language sql volatile
     as $$ select '${at}'::timestamptz${since} $$`,
  );
}

/** Every invariant holds. */
export async function expectBooksAreRight(sql: Sql): Promise<void> {
  const findings = await checkBooks(sql);
  expect(findings.flatMap((finding) => finding.violations)).toEqual([]);
}
