import { condition, continueAsNew, setCurrentDetails, workflowInfo } from "@temporalio/workflow";
import { deliverInOrder, giveUpDelivery, listenToCalls, waitInWords } from "./webhook-calls.js";
import type { WebhookEndpointRef, WebhookLine } from "./webhook-contract.js";
import { counted } from "./words.js";

/**
 * Delivers the events of one endpoint in their order, many in one activity, and ends when nothing
 * waits: the next event starts it anew. Nothing overtakes what is being tried, so a receiver that
 * is down finds everything in order when it is back. Only what a working receiver refuses again and
 * again leaves the line after five tries and is tried on by a workflow of its own, `webhook`, while
 * the line goes on; the sequence in the payload tells the receiver.
 *
 * @param before how many were delivered by the runs before this one
 */
export async function webhookEndpoint(ref: WebhookEndpointRef, before = 0): Promise<void> {
  const told = listenToCalls();
  let delivered = before;

  for (;;) {
    const atOnce = told.retryNow;
    told.due = false;
    told.retryNow = false;
    const line = await deliverInOrder({ endpointId: ref.endpointId, atOnce });
    delivered += line.delivered;
    told.seen = line;
    setCurrentDetails(
      `${ref.target}: ${inWords(line)}\n\ndelivered ${counted(delivered, "event")}`,
    );

    if (line.kind === "waiting") {
      told.waiting = line;
      const summary = `until the next try of ${line.type}`;
      await condition(() => told.retryNow || told.givenUp !== undefined, line.waitMs, { summary });
      told.waiting = undefined;
      if (told.givenUp) await giveUpDelivery(told.givenUp);
      told.givenUp = undefined;
    } else if (line.kind !== "more" && !told.due && !told.retryNow) return;
    if (workflowInfo().continueAsNewSuggested && !told.retryNow) {
      await continueAsNew<typeof webhookEndpoint>(ref, delivered);
    }
  }
}

function inWords(line: WebhookLine): string {
  if (line.kind === "waiting") return waitInWords(line);
  if (line.kind === "stopped") return line.why;
  return line.kind === "more" ? "delivering" : "nothing waits";
}
