import type { Client } from "@temporalio/client";
import { expect } from "vitest";
import { signingVault } from "../../src/webhooks/signing.js";
import { createTargets } from "../../src/webhooks/targets.js";
import { createEndpoint } from "../../src/webhooks/webhooks.js";
import { UPDATES, workflowIds } from "../../workflows/contract.js";
import { WEBHOOK_SIGNALS } from "../../workflows/webhook-contract.js";
import { startReceiver } from "../webhooks/receiver.js";
import { aChild, anAccount, detailsOf, PEPPER, type World, within } from "./world.js";

/**
 * One endpoint's line with a try in vain and an operator's retry, and an event that leaves it and is
 * given up.
 */
export async function tellAReceiver(world: World, client: Client): Promise<[string, string][]> {
  const { sql } = world;
  const account = await anAccount(sql);
  const { child } = await aChild(sql, account);
  let down = true;
  const receiver = await startReceiver(({ body }) => {
    if (down) return 503;
    return body.type === "key.deleted" ? 400 : 200;
  });
  const targets = createTargets({ production: false, allowPrivate: ["127.0.0.0/8"] });
  const office = { sql, targets, vault: signingVault([PEPPER]) };
  const wanted = { url: receiver.url, events: [] };
  const { endpoint } = await createEndpoint(office, account, wanted);
  const tell = (verb: string) => sql`
    insert into audit_event (account_id, actor, action, subject)
    values (${account}, 'system', ${`child_key.${verb}`}, ${child})`;

  const line = client.workflow.getHandle(workflowIds.webhookEndpoint(endpoint.id));
  await tell("created");
  await within(20_000, async () => expect(await detailsOf(line)).toContain("last answer 503"));
  await tell("deleted");
  await tell("updated");
  down = false;
  await line.signal(WEBHOOK_SIGNALS.retryNow);
  await within(40_000, async () => expect(await detailsOf(line)).toContain("nothing waits"));
  await line.result();

  const [left] = await sql<{ id: string }[]>`select id from webhook_delivery where apart`;
  const workflowId = workflowIds.webhook(left?.id ?? "");
  const apart = client.workflow.getHandle(workflowId);
  await within(20_000, async () => expect(await detailsOf(apart)).toContain("last answer 400"));
  await apart.signal(WEBHOOK_SIGNALS.retryNow);
  await within(20_000, async () => expect(await detailsOf(apart)).toContain("6 tries"));
  const order = { by: "operator", reason: "the receiver will never take it" };
  await apart.executeUpdate(UPDATES.giveUp, { args: [order] });
  await apart.result();
  await receiver.stop();
  return [
    ["webhook-endpoint", workflowIds.webhookEndpoint(endpoint.id)],
    ["webhook", workflowId],
  ];
}
