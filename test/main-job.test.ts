import { Client, Connection } from "@temporalio/client";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { connect, type Sql } from "../src/db/sql.js";
import { type Answer, costOf, openShop } from "./support/shop.js";
import { PATIENCE, type System, startSystem } from "./support/system.js";

const LONG = 90_000;

let system: System;
let sql: Sql;
let temporal: Client;
beforeAll(async () => {
  system = await startSystem();
  sql = connect(system.ready.database_url, { name: "main job", max: 2 });
  const connection = await Connection.connect({ address: system.temporalAddress });
  temporal = new Client({ connection });
});
afterAll(async () => {
  await temporal?.connection.close();
  await sql?.end();
  await system?.stop();
});

/** What an operator reads of a workflow in Temporal's UI. */
async function detailsOf(workflowId: string): Promise<string> {
  const metadata = await temporal.workflow
    .getHandle(workflowId)
    .query<{ currentDetails?: string }>("__temporal_workflow_metadata");
  return metadata.currentDetails ?? "";
}

/** Ids of the workflows that Temporal's UI lists. */
async function listedInUi(query: string): Promise<string[]> {
  const path = `/api/v1/namespaces/default/workflows?query=${encodeURIComponent(query)}`;
  const answer = await fetch(`${system.ready.temporal_ui}${path}`);
  const { executions } = (await answer.json()) as {
    executions: { execution: { workflowId: string } }[];
  };
  return executions.map((it) => it.execution.workflowId);
}

async function settlementOf(account: string): Promise<string> {
  const [row] = await sql<
    { shard: number }[]
  >`select shard_of(id) as shard from account where id = ${account}`;
  return `settlement/${row?.shard}`;
}

async function openHolds(): Promise<number> {
  const [row] = await sql<{ n: number }[]>`select count(*)::int n from open_hold`;
  return row?.n ?? -1;
}

async function expectBooksAreRight(): Promise<void> {
  const { code, stdout, stderr } = await system.keytoll("check", "--json");
  const { ok, findings } = JSON.parse(stdout || "{}") as {
    ok?: boolean;
    findings?: { violations: string[] }[];
  };
  expect(
    findings?.flatMap((it) => it.violations),
    stderr,
  ).toEqual([]);
  expect({ code, ok }).toEqual({ code: 0, ok: true });
}

test("a child key pays exactly what its answer says, once, until its limit and its expiry", {
  timeout: LONG,
}, async () => {
  const limits = { limit_daily_ngonka: "1000000000", rate_limit_rpm: 30 };
  const shop = await openShop(system, "me@example.com", limits);
  const before = await shop.used();
  const paid = await shop.chat();
  expect(paid.status).toBe(200);
  const cost = costOf([paid]);
  expect(cost).toBeGreaterThan(0n);
  expect((await shop.used()) - before).toBe(cost);

  await shop.expectSettled(cost);
  const settlement = await settlementOf(shop.account);
  expect(await listedInUi(`KeytollJob = "settlement"`)).toContain(settlement);
  const { staticSummary } = await temporal.workflow.getHandle(settlement).describe();
  expect(await staticSummary()).toContain("posts captured usage to the journal");
  const gnk = `0.${`${cost}`.padStart(9, "0").replace(/0+$/, "")} GNK`;
  await vi.waitFor(
    async () => expect(await detailsOf(settlement)).toContain(`in all 1 record, ${gnk}`),
    PATIENCE,
  );

  await shop.changeChild({ limit_daily_ngonka: `${cost}` });
  const refusal = { type: "child_key_limit", code: "child_key_limit_exceeded" };
  expect(await shop.chat()).toMatchObject({
    status: 402,
    body: { error: { ...refusal, daily_remaining: "0" } },
  });

  const expires_at = new Date(Date.now() + 2_000).toISOString();
  await shop.changeChild({ limit_daily_ngonka: null, expires_at });
  const last = await shop.chat();
  expect(last.status).toBe(200);
  await vi.waitFor(async () => expect((await shop.ownKey()).status).toBe(401), PATIENCE);
  expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(expires_at));
  expect(await shop.chat()).toMatchObject({
    status: 401,
    body: { error: { code: "invalid_api_key" } },
  });

  const expiry = temporal.workflow.getHandle(`key-expiry/${shop.childId}`);
  await vi.waitFor(async () => {
    expect((await expiry.describe()).status.name).toBe("COMPLETED");
  }, PATIENCE);
  expect(await detailsOf(expiry.workflowId)).toMatch(/^key "Client A" \(gc-.*recorded$/);
  const events = await sql`
    select actor from audit_event
     where subject = ${shop.childId} and action = 'child_key.expired'`;
  expect([...events]).toEqual([{ actor: "system" }]);

  await shop.expectSettled(costOf([paid, last]));
  await expectBooksAreRight();
});

test("gateway and worker act as the application's role, which cannot change what is on record", {
  timeout: LONG,
}, async () => {
  await sql.unsafe(`
    create table who (name text);
    grant insert on who to public;
    create function note_who() returns trigger language plpgsql as
      $$ begin insert into who values (tg_table_name || ' ' || current_user); return new; end $$;
    create trigger who after insert on open_hold for each row execute function note_who();
    create trigger who after insert on settlement_post for each row execute function note_who()`);
  const shop = await openShop(system, "role@example.com");
  await shop.expectSettled(costOf([await shop.chat()]));
  const names = await sql<{ name: string }[]>`select distinct name from who order by 1`;
  await sql.unsafe("drop function note_who() cascade; drop table who");
  expect(names.map((row) => row.name)).toEqual([
    "open_hold keytoll_app",
    "settlement_post keytoll_app",
  ]);
});

test("with Temporal away no request fails, limits hold, and settlement catches up afterwards", {
  timeout: LONG,
}, async () => {
  const shop = await openShop(system, "away@example.com");
  const answers = [await shop.chat()];
  await shop.expectSettled(costOf(answers));

  const server = system.pidOf("temporal");
  process.kill(server, "SIGSTOP");
  for (let round = 0; round < 10; round += 1) {
    answers.push(...(await Promise.all(Array.from({ length: 5 }, () => shop.chat()))));
  }
  expect(answers.filter((it) => it.status !== 200)).toEqual([]);
  const cost = costOf(answers);
  expect(await shop.used()).toBe(cost);
  expect(await shop.settled()).toBeLessThan(cost);
  await shop.changeChild({ limit_daily_ngonka: `${cost}` });
  expect((await shop.chat()).status).toBe(402);

  process.kill(server, "SIGKILL");
  await shop.expectSettled(cost);
  expect(system.pidOf("temporal")).not.toBe(server);
  await expectBooksAreRight();
});

test("a gateway and a worker killed under load come back, and what was acknowledged is paid once", {
  timeout: LONG,
}, async () => {
  const shop = await openShop(system, "killed@example.com");
  const acknowledged: Answer[] = [];
  const load = Array.from({ length: 20 }, async (_, lane) => {
    for (;;) {
      const answer = await shop.chat(lane < 10 ? "demo/fast" : "demo/slow").catch(() => undefined);
      if (!answer) return;
      acknowledged.push(answer);
    }
  });
  await vi.waitFor(async () => {
    expect(acknowledged.length).toBeGreaterThan(100);
    expect(await openHolds()).toBeGreaterThanOrEqual(10);
  }, PATIENCE);
  for (const kind of ["gateway", "worker"] as const) process.kill(system.pidOf(kind), "SIGKILL");
  await Promise.all(load);
  expect(acknowledged.filter((it) => it.status !== 200)).toEqual([]);
  expect(await openHolds()).toBeGreaterThan(0);

  await vi.waitFor(() => {
    expect(system.output()).toMatch(/^serve runs again$/m);
    expect(system.output()).toMatch(/^work runs again$/m);
  }, PATIENCE);
  expect((await fetch(`${system.ready.http}/readyz`)).status).toBe(200);
  // As if the minute that a lease lives had passed
  await sql`
    update gateway set seen_at = seen_at - interval '1 minute'
     where id in (select gateway_id from open_hold)`;
  await vi.waitFor(async () => expect(await openHolds()).toBe(0), PATIENCE);

  const cost = await shop.used();
  const [captured] = await sql<{ cost: bigint; requests: number }[]>`
    select sum(cost)::bigint as cost, count(*)::int as requests from usage_record
     where child_key_id = ${shop.childId}`;
  expect(captured?.cost).toBe(cost);
  expect(cost).toBeGreaterThanOrEqual(costOf(acknowledged));
  expect(captured?.requests).toBeGreaterThanOrEqual(acknowledged.length);
  // At most the one that each lane was waiting for
  expect(captured?.requests).toBeLessThanOrEqual(acknowledged.length + load.length);
  await shop.expectSettled(cost);
  await expectBooksAreRight();
});
