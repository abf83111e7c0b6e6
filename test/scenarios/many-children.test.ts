import { afterAll, beforeAll, expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { elapsed, SECOND } from "../../src/base/time.js";
import type { Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import { getChildKey, listChildKeys } from "../../src/keys/child-keys.js";
import { deleteManagementKey } from "../../src/keys/management-keys.js";
import { holdOf } from "../support/asking.js";
import { type Books, openBooks, openDatabase } from "../support/books.js";

const CHILDREN = 100_000;
const SAMPLES = 1_000;

let sql: Sql;
let close: () => Promise<void>;
let books: Books;

beforeAll(async () => {
  ({ sql, close } = await openDatabase());
  books = await openBooks(sql);
  await sql.begin(async (tx) => {
    // Foreign keys are not looked up for each row, which would take the most of a minute
    await tx`set local session_replication_role = replica`;
    await tx`
      insert into child_key (id, account_id, management_key_id, name, hint, day, month, created_at,
                             updated_at)
      select new_id(clock_timestamp()), c.account_id, c.management_key_id, 'child ' || n, c.hint,
             c.day, c.month, c.created_at, c.updated_at
        from child_key c, generate_series(2, ${CHILDREN}::int) n where c.id = ${books.child}`;
  });
});
afterAll(() => close?.());

test("deleting a management key with 100,000 children writes one of the keys' rows, at once, and refuses them all", async () => {
  const { account, owner, managementKey } = books;
  const holds = createHolds(sql, { gateway: null });
  const samples = await sql<{ id: string }[]>`
    select id from child_key where account_id = ${account} order by random() limit ${SAMPLES}`;
  const ask = () =>
    Promise.all(
      samples.map(({ id }) =>
        holds.authorize(holdOf({ account, child: id }, 1n)).then(
          () => "held",
          (error: unknown) => (error instanceof Refusal ? error.reason : String(error)),
        ),
      ),
    );
  expect(new Set(await ask())).toEqual(new Set(["held"]));

  const [next] = await sql`select txid_snapshot_xmax(txid_current_snapshot())::text as id`;
  const start = elapsed();
  await deleteManagementKey(sql, owner, managementKey);
  expect(elapsed() - start).toBeLessThan(SECOND);
  expect(new Set(await ask())).toEqual(new Set(["child_key_inactive"]));
  await holds.close();

  const [written] = await sql`
    select (select count(*)::int from child_key where xmin::text::bigint >= ${next?.id}::bigint)
             as children,
           (select count(*)::int from management_key where xmin::text::bigint >= ${next?.id}::bigint)
             as managers`;
  expect(written).toEqual({ children: 0, managers: 1 });
  const page = { after: null, limit: 100 };
  const any = { status: null, q: null };
  const { data } = await listChildKeys(sql, owner, managementKey, any, page);
  expect(new Set(data.map(({ shownStatus }) => shownStatus))).toEqual(new Set(["deleted"]));
  const active = { status: "active", q: null } as const;
  expect((await listChildKeys(sql, owner, managementKey, active, page)).data).toEqual([]);
  for (const { id: child } of samples.slice(0, 10)) {
    const { shownStatus } = await getChildKey(sql, owner, { managementKey, child });
    expect(shownStatus).toBe("deleted");
  }
});
