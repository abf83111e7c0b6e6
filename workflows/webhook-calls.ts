import {
  ApplicationFailure,
  defineQuery,
  defineSignal,
  defineUpdate,
  proxyActivities,
  setHandler,
} from "@temporalio/workflow";
import { type Order, QUERIES, QUEUES, UPDATES } from "./contract.js";
import { checkOrder } from "./order.js";
import {
  WEBHOOK_SIGNALS,
  type WebhookActivities,
  type WebhookLine,
  type WebhookState,
  type WebhookWaiting,
} from "./webhook-contract.js";
import { age } from "./words.js";

const options = {
  taskQueue: QUEUES.webhooks,
  startToCloseTimeout: "2 minutes",
  heartbeatTimeout: "20 seconds",
  retry: { maximumInterval: "30 seconds" },
} as const;

export const { deliverInOrder } = proxyActivities<WebhookActivities>({
  ...options,
  summary: "deliver what is due, in order",
});
export const { deliverApart, giveUpDelivery } = proxyActivities<WebhookActivities>({
  ...options,
  summary: "try the delivery, or give it up",
});

const due = defineSignal(WEBHOOK_SIGNALS.due);
const retryNow = defineSignal(WEBHOOK_SIGNALS.retryNow);
const giveUp = defineUpdate<void, [Order]>(UPDATES.giveUp);
const state = defineQuery<WebhookLine | WebhookState | null>(QUERIES.state);

/** What a webhook workflow was told since it last looked, and what it saw then. */
export interface Told {
  due: boolean;
  retryNow: boolean;
  /** What an operator gives up, and why. */
  givenUp: { deliveryId: string; order: Order } | undefined;
  /** What waits for its next try at the moment. */
  waiting: WebhookWaiting | undefined;
  seen: WebhookLine | WebhookState | null;
}

/** Listens to what operators and the outbox tell a webhook workflow. */
export function listenToCalls(): Told {
  const told: Told = {
    ...{ due: false, retryNow: false, givenUp: undefined, waiting: undefined, seen: null },
  };
  setHandler(due, () => {
    told.due = true;
  });
  setHandler(retryNow, () => {
    told.retryNow = true;
  });
  setHandler(state, () => told.seen);
  const take = (order: Order): void => {
    if (told.waiting) told.givenUp = { deliveryId: told.waiting.deliveryId, order };
  };
  const validator = (order: Order): void => {
    checkOrder(order);
    if (!told.waiting) throw ApplicationFailure.nonRetryable("nothing waits for its next try");
  };
  setHandler(giveUp, take, { validator });
  return told;
}

/** `waiting 5 min, last answer 503 (key.created, 3 tries)`. */
export function waitInWords({ waitMs, problem, type, tries }: WebhookWaiting): string {
  const why = problem === "" ? "" : `, ${problem}`;
  return `waiting ${age(Math.ceil(waitMs / 1_000))}${why} (${type}, ${inTries(tries)})`;
}

export const inTries = (tries: number): string => `${tries} ${tries === 1 ? "try" : "tries"}`;
