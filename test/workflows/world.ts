import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, Connection, type WorkflowHandle } from "@temporalio/client";
import { vi } from "vitest";
import { readConfig } from "../../src/base/config.js";
import { type Id, newId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { hashSecret, hintOf, newSecret } from "../../src/keys/secret.js";
import { HOUSE, postTransfer } from "../../src/ledger/ledger.js";
import { freshDatabase } from "../support/database.js";

/** Shared by all test files, so that workflows are bundled once. */
export const DATA_DIR = join(tmpdir(), "keytoll-test-bundle");

export interface World {
  sql: Sql;
  holds: Holds;
  databaseUrl: string;
  close(): Promise<void>;
}

/** A database of its own with the money core on it. */
export async function aWorld(): Promise<World> {
  const database = await freshDatabase();
  const sql = connect(database.url, { max: 12, name: "test" });
  const application = connect(database.applicationUrl, { max: 6, name: "test money" });
  const holds = createHolds(application, { gateway: null });
  return {
    sql,
    holds,
    databaseUrl: database.url,
    close: async () => {
      await holds.close();
      await Promise.all([application.end({ timeout: 5 }), sql.end({ timeout: 5 })]);
      await database.drop();
    },
  };
}

export const quietLog = createLog("silent", "test");

/** @param databaseUrl needed where the books are proved */
export function configFor(temporal: { address: string; namespace: string }, databaseUrl?: string) {
  return readConfig({
    DATABASE_URL: databaseUrl,
    TEMPORAL_ADDRESS: temporal.address,
    TEMPORAL_NAMESPACE: temporal.namespace,
    KEYTOLL_DATA_DIR: DATA_DIR,
    KEYTOLL_SECRET: PEPPER,
    KEYTOLL_WEBHOOK_ALLOW_PRIVATE: "127.0.0.0/8",
  });
}

export async function temporalClient(temporal: {
  address: string;
  namespace: string;
}): Promise<Client> {
  const connection = await Connection.connect({ address: temporal.address });
  return new Client({ connection, namespace: temporal.namespace });
}

/** An account with 1,000,000 ngonka, in the given shard where one is given. */
export async function anAccount(sql: Sql, { shard }: { shard?: number } = {}): Promise<Id> {
  let id = newId();
  while (shard !== undefined && Number.parseInt(id.slice(-2), 16) % 4 !== shard) id = newId();
  const amount = 1_000_000n;
  await sql.begin(async (tx) => {
    await tx`insert into account (id, posted) values (${id}, ${amount})`;
    const at = new Date("2026-01-01T00:00:00Z");
    await postTransfer(tx, {
      ...{ debit: HOUSE.deposits, credit: id, amount, at },
      ...{ kind: "credit", reference: id },
    });
  });
  return id;
}

export const PEPPER = "0123456789abcdef0123456789abcdef";

export interface TestChild {
  account: Id;
  managementKey: Id;
  child: Id;
  secret: string;
  hint: string;
}

/** A child key, with a management key of its own. */
export async function aChild(
  sql: Sql,
  account: Id,
  { expiresAt = null, name = "Client A" }: { expiresAt?: Date | null; name?: string } = {},
): Promise<TestChild> {
  const [managementKey, child] = [newId(), newId()];
  const secret = newSecret("child");
  const hint = hintOf(secret);
  await sql`
    insert into management_key (id, account_id, name, hint, created_at, updated_at)
    values (${managementKey}, ${account}, 'My SaaS', 'gm-…test', now(), now())`;
  await sql`
    insert into child_key
      (id, account_id, management_key_id, name, hint, expires_at, day, month, created_at,
        updated_at)
    values (${child}, ${account}, ${managementKey}, ${name}, ${hint}, ${expiresAt},
            (keytoll_clock() at time zone 'UTC')::date,
            date_trunc('month', keytoll_clock() at time zone 'UTC')::date, now(), now())`;
  await sql`
    insert into key_secret (hash, pepper, kind, key_id, version)
    values (${hashSecret(secret, PEPPER)}, 'test', 'child', ${child}, 1)`;
  return { account, managementKey, child, secret, hint };
}

/** Opens a hold of 10 ngonka. */
export async function openHold(holds: Holds, { account, child }: TestChild, seconds = 60) {
  const id = newId();
  await holds.authorize({
    ...{ account, child, id, part: 0, amount: 10n, floor: 0n, secretVersion: 0, seconds },
    ...{ fingerprint: 1n, own: false, model: "demo/fast", priceVersion: 1 },
  });
  return id;
}

/** Captures `count` requests of 7 ngonka each. */
export async function use(holds: Holds, key: TestChild, count: number): Promise<void> {
  await Promise.all(
    Array.from({ length: count }, async () => {
      const id = await openHold(holds, key);
      await holds.capture({
        ...{ account: key.account, id, cost: 7n, inputTokens: 3n, outputTokens: 4n },
        ...{ estimated: false, fingerprint: 2n, own: false },
      });
    }),
  );
}

/** Leaves a gap in an account's usage, so that it cannot be posted. */
export async function breakUsage(sql: Sql, account: Id): Promise<void> {
  await renumber(sql, account, 2, 1_000_002);
}

/** Closes that gap. */
export async function mendUsage(sql: Sql, account: Id): Promise<void> {
  await renumber(sql, account, 1_000_002, 2);
}

async function renumber(sql: Sql, account: Id, from: number, to: number): Promise<void> {
  await sql.begin(async (tx) => {
    await tx.unsafe("alter table ended_hold disable trigger append_only");
    await tx`
      update ended_hold set usage_seq = ${to} where account_id = ${account} and usage_seq = ${from}`;
    await tx.unsafe("alter table ended_hold enable trigger append_only");
  });
}

/** Sets the clock that money goes by; it stands still until it is set again. */
export async function setClock(sql: Sql, at: string): Promise<void> {
  await sql.unsafe(
    `create or replace function keytoll_clock() returns timestamptz language sql volatile
     as $$ select '${at}'::timestamptz $$`,
  );
}

/** What an operator sees of a running or finished workflow, as it stands. */
export async function detailsOf(handle: WorkflowHandle): Promise<string> {
  const metadata = await handle.query<{ currentDetails?: string }>("__temporal_workflow_metadata");
  return metadata.currentDetails ?? "";
}

/** Waits until `check` no longer throws. */
export async function within(ms: number, check: () => Promise<void>): Promise<void> {
  await vi.waitFor(check, { timeout: ms, interval: 50 });
}

/** All that Temporal keeps of a namespace's workflows, payloads decoded. */
export async function everyHistory(client: Client): Promise<string> {
  let text = "";
  for await (const { workflowId, runId } of client.workflow.list()) {
    const history = await client.workflow.getHandle(workflowId, runId).fetchHistory();
    text += JSON.stringify(history, (name, value) =>
      name === "data" ? Buffer.from(String(value), "base64").toString() : value,
    );
  }
  return text;
}
