import type { Client } from "@temporalio/client";
import {
  QUEUES,
  SHARDS,
  SIGNALS,
  searchAttributes,
  workflowIds,
} from "../../workflows/contract.js";
import type { settlement } from "../../workflows/settlement.js";
import { ensureSearchAttributes } from "./attributes.js";
import { ensureSchedules, type NewestReset } from "./schedules.js";

/**
 * Makes sure that everything that should run in Temporal does: search attributes, Schedules,
 * settlement. Harmless while it does; where Temporal's database was lost, it starts all anew.
 */
export async function ensureJobs(client: Client, newestReset: NewestReset): Promise<void> {
  await ensureSearchAttributes(client);
  await ensureSchedules(client, newestReset);
  await Promise.all(SHARDS.map((shard) => ensureSettlement(client, shard)));
}

async function ensureSettlement(client: Client, shard: number): Promise<void> {
  await client.workflow.start<typeof settlement>("settlement", {
    workflowId: workflowIds.settlement(shard),
    taskQueue: QUEUES.jobs,
    args: [shard],
    workflowIdConflictPolicy: "USE_EXISTING",
    staticSummary: `posts captured usage to the journal, accounts of shard ${shard}`,
    typedSearchAttributes: searchAttributes({ job: "settlement" }),
  });
}

/** Has these shards settle at once instead of within a minute. */
export async function settleNow(client: Client, shards: readonly number[] = SHARDS): Promise<void> {
  await Promise.all(
    shards.map((shard) =>
      client.workflow.getHandle(workflowIds.settlement(shard)).signal(SIGNALS.settleNow),
    ),
  );
}
