import { parseArgs } from "node:util";
import type { Order } from "../../workflows/contract.js";
import { readConfig } from "../base/config.js";
import { connect, type Sql } from "../db/sql.js";
import { findDatabase } from "../dev/running.js";
import { outboxState } from "../temporal/outbox.js";
import { dropGivenUp, type GivenUp, listGivenUp, retryGivenUp } from "../temporal/outbox-care.js";
import type { Command } from "./command.js";
import { ORDER_FLAGS, ORDER_USAGE, readOrder } from "./order.js";

const WRONG_USAGE = 2;
const LISTED = 1_000;

export const command: Command = {
  summary: "what Temporal has not been told; retry or drop what was given up",
  usage: `Usage: keytoll outbox
       keytoll outbox --retry ID|all --reason TEXT
       keytoll outbox --drop ID --reason TEXT

Alone: how many entries wait and how old the oldest is, then each that was given up, with its last
error; exit code 1 where there is one. --retry has it told anew. --drop removes it for good: what it
was about is then only found again by the sweeps.

${ORDER_USAGE}
  DATABASE_URL      Postgres; without it, that of the system that runs on this machine`,

  async run(args) {
    const string = { type: "string" } as const;
    const { values } = parseArgs({
      args,
      options: { retry: string, drop: string, ...ORDER_FLAGS },
    });
    const { retry, drop } = values;
    const typed = retry ?? drop;
    const order = readOrder(values);
    const id = typed === undefined ? undefined : readId(typed, retry !== undefined);
    if (typed !== undefined && (id === undefined || !order || (retry && drop))) {
      console.error("keytoll outbox: wants one entry's id, and a --reason; see --help");
      return WRONG_USAGE;
    }
    const sql = connect(findDatabase(readConfig(process.env)), { name: "keytoll outbox", max: 1 });
    try {
      if (id === undefined || !order) return await tell(sql);
      return await obey(sql, { id, drop: drop !== undefined, order });
    } finally {
      await sql.end();
    }
  },
};

/** Null: all. */
function readId(typed: string, orAll: boolean): bigint | null | undefined {
  if (orAll && typed === "all") return null;
  return /^\d{1,18}$/.test(typed) ? BigInt(typed) : undefined;
}

async function tell(sql: Sql): Promise<number> {
  const { waiting, oldestSeconds } = await outboxState(sql);
  const oldest = waiting === 0 ? "" : `, the oldest for ${oldestSeconds} s`;
  console.log(`${waiting} waiting${oldest}`);
  const givenUp = await listGivenUp(sql, LISTED);
  for (const entry of givenUp) {
    console.log(`${inWords(entry)}, ${entry.attempts} in vain: ${entry.lastError ?? "?"}`);
  }
  return givenUp.length === 0 ? 0 : 1;
}

async function obey(
  sql: Sql,
  { id, drop, order }: { id: bigint | null; drop: boolean; order: Order },
): Promise<number> {
  const entries =
    drop && id !== null ? [await dropGivenUp(sql, id, order)] : await retryGivenUp(sql, id, order);
  const done = entries.filter((entry) => entry !== undefined);
  for (const entry of done) {
    console.log(`${inWords(entry)} ${drop ? "is dropped" : "is told anew"}`);
  }
  if (done.length > 0 || id === null) return 0;
  console.error(`keytoll outbox: entry ${id} is not given up`);
  return 1;
}

const inWords = ({ id, kind, key, createdAt }: GivenUp): string =>
  `${id} (${kind} ${key}) of ${createdAt.toISOString()}`;
