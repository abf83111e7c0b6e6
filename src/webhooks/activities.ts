import { Context } from "@temporalio/activity";
import type { WebhookActivities } from "../../workflows/webhook-contract.js";
import type { Sql } from "../db/sql.js";
import { beat } from "../temporal/beat.js";
import { deliverApart, deliverInOrder, giveUpDelivery, type Post } from "./deliver.js";
import { createSender } from "./send.js";
import { signingVault } from "./signing.js";
import { createTargets, type TargetRules } from "./targets.js";

/**
 * What workflows may ask about webhooks.
 *
 * @param secrets of the operator, newest first; without one nothing can be signed and all waits
 */
export function webhookActivities(
  sql: Sql,
  secrets: readonly string[],
  rules: TargetRules,
): WebhookActivities {
  const sender = createSender(createTargets(rules));
  const post = (): Post => ({ sql, vault: signingVault(secrets), sender });
  const look = (atOnce: boolean) => ({
    atOnce,
    signal: Context.current().cancellationSignal,
    onTry: () => beat(),
  });
  return {
    deliverInOrder: ({ endpointId, atOnce }) => deliverInOrder(post(), endpointId, look(atOnce)),
    deliverApart: ({ deliveryId, atOnce }) => deliverApart(post(), deliveryId, look(atOnce)),
    giveUpDelivery: ({ deliveryId, order }) => giveUpDelivery(sql, deliveryId, order),
  };
}
