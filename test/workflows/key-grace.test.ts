import type { Client } from "@temporalio/client";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { Id } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createKeyring } from "../../src/keys/authenticate.js";
import { changeChildKey, rotateChildKey } from "../../src/keys/child-keys.js";
import { announceGrace, recordGraceEndIfDue, sweepEndedGraces } from "../../src/keys/grace.js";
import { changeManagementKey, rotateManagementKey } from "../../src/keys/management-keys.js";
import { startWorker } from "../../src/worker.js";
import { workflowIds } from "../../workflows/contract.js";
import { type Books, openBooks, PEPPER } from "../support/books.js";
import { freshDatabase } from "../support/database.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import { configFor, detailsOf, quietLog, temporalClient, within } from "./world.js";

let database: Awaited<ReturnType<typeof freshDatabase>>;
let sql: Sql;
/** As the worker and gateways act. */
let application: Sql;
let client: Client;
let worker: Awaited<ReturnType<typeof startWorker>>;

beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.url, { name: "test", max: 4 });
  application = connect(database.applicationUrl, { name: "test application", max: 8 });
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  client = await temporalClient(temporal);
  worker = await startWorker({ config: configFor(temporal), sql: application, log: quietLog });
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await Promise.all([sql?.end(), application?.end()]);
  await database?.drop();
});

const workflowOf = (id: Id) => client.workflow.getHandle(workflowIds.keyGrace(id));
const rotate = (books: Books, graceSeconds: number) =>
  rotateChildKey(application, books.owner, books.ref, { graceSeconds, pepper: PEPPER });

/** Versions of the key's secrets whose hashes are kept. */
const versionsOf = async (id: Id): Promise<number[]> => {
  const rows = await sql<{ version: number }[]>`
    select version from key_secret where key_id = ${id} order by 1`;
  return rows.map((row) => row.version);
};

/** Versions whose end is on record. */
const endsOf = async (id: Id): Promise<number[]> => {
  const rows = await sql<{ version: number }[]>`
    select (change ->> 'version')::int as version from audit_event
     where subject = ${id} and action like '%.grace_ended' and actor = 'system' order by 1`;
  return rows.map((row) => row.version);
};

const isWaiting = (id: Id) =>
  within(10_000, async () => {
    expect((await workflowOf(id).describe()).status.name).toBe("RUNNING");
  });

test("the end of a grace is recorded once, for child and management keys, and the replaced secret forgotten", async () => {
  const books = await openBooks(application);
  const { managementKey: gm, child: gc } = books;
  await rotate(books, 3);
  const how = { graceSeconds: 3, pepper: PEPPER };
  await rotateManagementKey(application, books.owner, gm, how);
  expect([await versionsOf(gc), await versionsOf(gm)]).toEqual([
    [1, 2],
    [1, 2],
  ]);
  for (const id of [gc, gm]) {
    await within(15_000, async () => expect(await endsOf(id)).toEqual([1]));
    expect(await versionsOf(id)).toEqual([2]);
    await workflowOf(id).result();
    expect(await detailsOf(workflowOf(id))).toMatch(
      /^the replaced secret of key ".*" \(g[cm]-.*\) worked until .* UTC; recorded, and its hash forgotten$/,
    );
  }
  await Promise.all([recordGraceEndIfDue(application, gc), sweepEndedGraces(application)]);
  await announceGrace(application, client, gc);
  expect([await endsOf(gc), await endsOf(gm)]).toEqual([[1], [1]]);
});

test("a rotation during a grace ends it at once and begins its own", async () => {
  const books = await openBooks(application);
  const { child } = books;
  await rotate(books, 3_600);
  await isWaiting(child);
  await rotate(books, 2);
  expect(await versionsOf(child)).toEqual([2, 3]);
  await within(15_000, async () => expect(await endsOf(child)).toEqual([2]));
  expect(await versionsOf(child)).toEqual([3]);
});

test("a rotation without grace ends the one that runs, and its workflow", async () => {
  const books = await openBooks(application);
  const { child } = books;
  await rotate(books, 3_600);
  await isWaiting(child);
  await rotate(books, 0);
  expect(await versionsOf(child)).toEqual([3]);
  await within(10_000, async () => {
    expect((await workflowOf(child).describe()).status.name).toBe("COMPLETED");
  });
  expect(await endsOf(child)).toEqual([]);
});

test("no secret of an expired or disabled key works by being rotated, until the key itself works again", async () => {
  const books = await openBooks(application);
  const keyring = createKeyring(application, [PEPPER]);
  const change = (fields: Parameters<typeof changeChildKey>[3]) =>
    changeChildKey(application, books.owner, books.ref, fields);
  await change({ status: "disabled" });
  const disabled = await rotate(books, 60);
  await expect(keyring.find(disabled.secret)).rejects.toThrow();
  await change({ status: "active" });
  await vi.waitFor(() => keyring.find(disabled.secret));

  await sql`
    update child_key set expires_at = keytoll_clock() - interval '1 second'
     where id = ${books.child}`;
  const expired = await rotate(books, 60);
  keyring.evict(books.child);
  for (const { secret } of [disabled, expired]) {
    await expect(keyring.find(secret)).rejects.toThrow();
  }
  await change({ expiresAt: null });
  for (const { secret } of [disabled, expired]) await vi.waitFor(() => keyring.find(secret));
  await keyring.stop();
});

test("a management key's replaced secret changes nothing once its grace is over, though nothing has recorded it", async () => {
  const books = await openBooks(application);
  const { account, managementKey: id } = books;
  const how = { graceSeconds: 3_600, pepper: PEPPER };
  await rotateManagementKey(application, books.owner, id, how);
  const asVersion = (secretVersion: number) =>
    changeManagementKey(
      application,
      {
        kind: "management",
        ...{ account, managementKey: id, secretVersion, access: "read_write" },
      },
      id,
      { name: `by version ${secretVersion}` },
    );
  expect((await asVersion(1)).name).toBe("by version 1");
  await sql`update management_key set previous_secret_until = keytoll_clock() where id = ${id}`;
  await expect(asVersion(1)).rejects.toMatchObject({ reason: "invalid_api_key" });
  expect((await asVersion(2)).name).toBe("by version 2");
});

test("the sweep alone records ends of graces by the hundred, each once, though it runs twice at the same time", async () => {
  const books = await openBooks(application);
  await sql`
    insert into child_key (id, account_id, management_key_id, name, hint, day, month,
      created_at, updated_at, secret_version, previous_secret_until)
    select gen_random_uuid(), ${books.account}, ${books.managementKey}, 'swept', 'gc-…', now(),
      now(), now(), now(), 2, now() - i * interval '1 second' from generate_series(1, 1300) i`;
  await sql`
    insert into key_secret (hash, pepper, kind, key_id, version)
    select sha256(convert_to(c.id || '/' || v, 'UTF8')), 'test', 'child', c.id, v
      from child_key c, generate_series(1, 2) v where c.name = 'swept'`;
  await Promise.all([sweepEndedGraces(application), sweepEndedGraces(application)]);
  const [kept] = await sql`
    select count(*)::int as n, min(s.version) as version
      from key_secret s join child_key c on c.id = s.key_id where c.name = 'swept'`;
  expect(kept).toEqual({ n: 1_300, version: 2 });
  const [audited] = await sql`
    select count(*)::int as n, count(distinct subject)::int as keys from audit_event
     where account_id = ${books.account} and action = 'child_key.grace_ended'`;
  expect(audited).toEqual({ n: 1_300, keys: 1_300 });
});

test("nobody but the end of its grace forgets a secret: the application may delete none", async () => {
  const books = await openBooks(application);
  await rotate(books, 3_600);
  await application`select forget_replaced_secrets(${[books.child]})`;
  expect(await versionsOf(books.child)).toEqual([1, 2]);
  await expect(application`delete from key_secret`).rejects.toMatchObject({ code: "42501" });
});
