import { condition, continueAsNew, setCurrentDetails, workflowInfo } from "@temporalio/workflow";
import {
  deliverApart,
  giveUpDelivery,
  inTries,
  listenToCalls,
  waitInWords,
} from "./webhook-calls.js";
import type { WebhookRef, WebhookState } from "./webhook-contract.js";

/**
 * Makes one delivery apart from its endpoint's line, with retries of its own for 72 h: a test, one
 * that the owner wants again, or one that the receiver refused while it takes others. All other
 * deliveries need no workflow of their own: see `webhookEndpoint`.
 */
export async function webhook(ref: WebhookRef): Promise<WebhookState> {
  const told = listenToCalls();

  for (;;) {
    const atOnce = told.retryNow;
    told.due = false;
    told.retryNow = false;
    const state = await deliverApart({ deliveryId: ref.deliveryId, atOnce });
    told.seen = state;
    setCurrentDetails(`${ref.type} to ${ref.target}: ${inWords(state)}`);

    if (state.kind === "waiting") {
      told.waiting = state;
      const woken = () => told.due || told.retryNow || told.givenUp !== undefined;
      await condition(woken, state.waitMs, { summary: "until the next try" });
      told.waiting = undefined;
      if (told.givenUp) await giveUpDelivery(told.givenUp);
      told.givenUp = undefined;
    } else if (!told.due && !told.retryNow) return state;
    if (workflowInfo().continueAsNewSuggested && !told.retryNow) {
      await continueAsNew<typeof webhook>(ref);
    }
  }
}

function inWords(state: WebhookState): string {
  switch (state.kind) {
    case "waiting":
      return waitInWords(state);
    case "delivered":
      return `delivered after ${inTries(state.tries)}`;
    case "failed":
      return `given up after ${inTries(state.tries)}, ${state.problem}`;
    case "held":
      return `held back: ${state.why}`;
    case "none":
      return "it is delivered or given up already";
  }
}
