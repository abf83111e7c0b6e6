import { userInfo } from "node:os";
import { type Client, WorkflowUpdateFailedError } from "@temporalio/client";
import type { Order } from "../../workflows/contract.js";
import type { Config } from "../base/config.js";
import { now, SECOND } from "../base/time.js";
import { findTemporalPlace } from "../dev/running.js";
import { isAway, openClient } from "../temporal/client.js";

/** Flags of every verb that orders something. */
export const ORDER_FLAGS = { reason: { type: "string" }, by: { type: "string" } } as const;

export const ORDER_USAGE = `  --reason TEXT     why, for the audit trail, 1 to 200 characters; each order needs one
  --by NAME         who, for the audit trail (the name that you are logged in by)`;

const PATIENCE = 60 * SECOND;

/** Who orders it and why; undefined where no usable reason is given. */
export function readOrder(values: {
  reason?: string | undefined;
  by?: string | undefined;
}): Order | undefined {
  const reason = values.reason?.trim() ?? "";
  const by = values.by?.trim() || userInfo().username;
  return reason.length > 0 && reason.length <= 200 ? { by, reason } : undefined;
}

/**
 * Asks Temporal, for a minute at most.
 *
 * @throws Error in words where it does not answer, or a workflow refuses
 */
export async function askTemporal<T>(
  config: Config,
  ask: (client: Client) => Promise<T>,
): Promise<T> {
  const place = findTemporalPlace(config);
  const { client, close } = openClient(place);
  try {
    return await client.withDeadline(now() + PATIENCE, () => ask(client));
  } catch (error) {
    if (error instanceof WorkflowUpdateFailedError && error.cause) throw error.cause;
    if (isAway(error))
      throw new Error(`Temporal at ${place.address} or its worker does not answer`);
    throw error;
  } finally {
    await close();
  }
}
