import { activityInfo, log } from "@temporalio/activity";
import type { BooksActivities, FailedAccount } from "../../workflows/contract.js";
import type { Id } from "../base/ids.js";
import { isPassing } from "../db/outage.js";
import type { Sql } from "../db/sql.js";
import { beat } from "../temporal/beat.js";
import { noteUsage } from "../webhooks/notices.js";
import { settleShard } from "./ledger.js";
import { noteOrder } from "./orders.js";
import { retryAccount } from "./retry.js";
import type { SetAside } from "./set-aside-store.js";

/** What workflows may ask of the ledger. */
export function ledgerActivities(
  sql: Sql,
): Pick<BooksActivities, "settleShard" | "retryAccount" | "noteOrder"> {
  return {
    settleShard: async (shard) => {
      const settled = await settleShard(sql, shard, {
        beforePosts: (account, records) => noteOrLog(sql, account, records),
        onProgress: beat,
        onFailed: (account, reason) => log.error("an account is set aside", { account, reason }),
      });
      return { ...settled, failed: settled.failed.map(inJson) };
    },
    retryAccount: (account, order) => retryAccount(sql, account, orderId(), order),
    noteOrder: async (deed) => {
      await sql.begin((tx) => noteOrder(tx, orderId(), deed));
    },
  };
}

/** The books never wait for what an owner is told. */
async function noteOrLog(sql: Sql, account: Id, records: number): Promise<void> {
  try {
    await noteUsage(sql, account, records);
  } catch (error) {
    if (isPassing(error)) throw error;
    log.error("usage could not be noted for webhooks", { account, reason: String(error) });
  }
}

/** The same for every attempt. */
function orderId(): string {
  const { workflowExecution, activityId } = activityInfo();
  return `${workflowExecution?.runId}/${activityId}`;
}

const inJson = ({ account, reason, nextAt }: SetAside): FailedAccount => ({
  account,
  reason,
  nextAt: nextAt.toISOString(),
});
