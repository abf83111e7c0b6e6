import { log } from "@temporalio/activity";
import type { BooksActivities } from "../../workflows/contract.js";
import type { Sql } from "../db/sql.js";
import { beat } from "../temporal/beat.js";
import { settleShard } from "./ledger.js";

/** What workflows may ask of the ledger. */
export function ledgerActivities(sql: Sql): Pick<BooksActivities, "settleShard"> {
  return {
    settleShard: async (shard) => {
      const settled = await settleShard(sql, shard, { onProgress: beat });
      for (const failed of settled.failed) log.error("an account cannot be settled", failed);
      return settled;
    },
  };
}
