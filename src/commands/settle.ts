import { parseArgs } from "node:util";
import type { Client } from "@temporalio/client";
import {
  type Order,
  QUERIES,
  type Retried,
  type SettlementState,
  SHARDS,
  UPDATES,
  workflowIds,
} from "../../workflows/contract.js";
import { type Config, readConfig } from "../base/config.js";
import { isId } from "../base/ids.js";
import { inGnk } from "../base/money.js";
import { connect, type Sql } from "../db/sql.js";
import { findDatabase } from "../dev/running.js";
import { listSetAside, settlementLag } from "../ledger/ledger.js";
import type { Command } from "./command.js";
import { askTemporal, ORDER_FLAGS, ORDER_USAGE, readOrder } from "./order.js";

const WRONG_USAGE = 2;
const LISTED = 1_000;

export const command: Command = {
  summary: "how far settlement is; retry an account that is set aside, pause, resume",
  usage: `Usage: keytoll settle
       keytoll settle --retry ACCOUNT --reason TEXT
       keytoll settle --pause SHARD|all --reason TEXT
       keytoll settle --resume SHARD|all --reason TEXT

Alone: what is behind, and which accounts are set aside and why; exit code 1 where one is.
--retry posts such an account at once, instead of when its time comes; exit code 1 where it cannot
be posted still. While a shard (0 to 3) is paused, its usage waits; requests go on.

${ORDER_USAGE}
  DATABASE_URL      Postgres; TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE: where its worker works.
                    Without them, those of the system that runs on this machine`,

  async run(args) {
    const string = { type: "string" } as const;
    const { values } = parseArgs({
      args,
      options: { retry: string, pause: string, resume: string, ...ORDER_FLAGS },
    });
    const config = readConfig(process.env);
    const { retry, pause, resume } = values;
    const wanted = [retry, pause, resume].filter((it) => it !== undefined);
    if (wanted.length === 0) return await tell(config);
    const order = readOrder(values);
    if (wanted.length > 1 || !order) {
      console.error("keytoll settle: wants one order, and a --reason; see --help");
      return WRONG_USAGE;
    }
    if (retry !== undefined) return await retryAccount(config, retry, order);
    return await hold(config, pause ?? resume ?? "", {
      update: pause === undefined ? UPDATES.resume : UPDATES.pause,
      order,
    });
  },
};

async function tell(config: Config): Promise<number> {
  const sql = connect(findDatabase(config), { name: "keytoll settle", max: 1 });
  try {
    const count = await tellOf(sql);
    for (const line of await pauses(config)) console.log(line);
    return count === 0 ? 0 : 1;
  } finally {
    await sql.end();
  }
}

/** @returns how many accounts are set aside */
async function tellOf(sql: Sql): Promise<number> {
  const { accounts, behind, oldestSeconds } = await settlementLag(sql);
  const lag = behind === 0n ? "" : ` of ${accounts} accounts, the oldest ${oldestSeconds} s`;
  console.log(`${behind.toLocaleString("en-US")} records behind${lag}`);
  const setAside = await listSetAside(sql, null, LISTED);
  for (const { account, since, attempts, nextAt, reason } of setAside) {
    const times = `since ${since.toISOString()}, ${attempts} in vain, next ${nextAt.toISOString()}`;
    console.log(`account ${account} is set aside ${times}: ${reason}`);
  }
  return setAside.length;
}

/** Shards that are paused, or that nobody answers for. */
async function pauses(config: Config): Promise<string[]> {
  const states = SHARDS.map((shard) =>
    askTemporal(config, (client) => stateOf(client, shard)).then(
      ({ paused }) => paused && `shard ${shard} is paused by ${paused.by}: ${paused.reason}`,
      (error: unknown) => `shard ${shard}: ${error instanceof Error ? error.message : error}`,
    ),
  );
  return (await Promise.all(states)).filter((line) => line !== null);
}

const stateOf = (client: Client, shard: number): Promise<SettlementState> =>
  client.workflow.getHandle(workflowIds.settlement(shard)).query(QUERIES.state);

async function retryAccount(config: Config, account: string, order: Order): Promise<number> {
  if (!isId(account)) {
    console.error(`keytoll settle: "${account}" is no account's id`);
    return WRONG_USAGE;
  }
  const shard = Number.parseInt(account.slice(-2), 16) % SHARDS.length;
  const retried = await askTemporal(config, (client) =>
    client.workflow
      .getHandle(workflowIds.settlement(shard))
      .executeUpdate<Retried, [Order & { account: string }]>(UPDATES.retryAccount, {
        args: [{ account: account.toLowerCase(), ...order }],
      }),
  );
  console.log(`account ${account} ${inWords(retried)}`);
  return retried.kind === "settled" ? 0 : 1;
}

function inWords(retried: Retried): string {
  if (retried.kind === "not_set_aside") return "is not set aside";
  if (retried.kind === "failed") return `stays set aside: ${retried.reason}`;
  return `is posted again: ${retried.records} records, ${inGnk(BigInt(retried.amountNgonka))}`;
}

async function hold(
  config: Config,
  typed: string,
  { update, order }: { update: string; order: Order },
): Promise<number> {
  const shards = SHARDS.filter((shard) => typed === "all" || typed === String(shard));
  if (shards.length === 0) {
    console.error(`keytoll settle: "${typed}" is none of ${SHARDS.join(", ")}, all`);
    return WRONG_USAGE;
  }
  await askTemporal(config, (client) =>
    Promise.all(
      shards.map((shard) =>
        client.workflow
          .getHandle(workflowIds.settlement(shard))
          .executeUpdate<void, [Order]>(update, { args: [order] }),
      ),
    ),
  );
  console.log(`${update}d: shard ${shards.join(", ")}`);
  return 0;
}
