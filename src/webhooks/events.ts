import { refuseField } from "../base/errors.js";

/** What an endpoint can be told of. */
export const EVENT_TYPES = [
  "key.created",
  "key.updated",
  "key.expired",
  "key.deleted",
  "limit.threshold",
  "limit.reached",
  "limit.reset",
  "balance.low",
  "balance.depleted",
  "deposit.credited",
] as const;

/** Type of the events that an owner sends to try an endpoint; nobody subscribes to it. */
export const TEST_EVENT = "webhook.test";

/**
 * Types that an endpoint wants.
 *
 * @returns each once; null for an empty list, which means all
 * @throws invalid_request_error with the place in the list
 */
export function checkEvents(events: readonly string[]): string[] | null {
  for (const [i, event] of events.entries()) {
    if ((EVENT_TYPES as readonly string[]).includes(event)) continue;
    throw refuseField(`events[${i}]`, `must be one of ${EVENT_TYPES.join(", ")}`);
  }
  return events.length === 0 ? null : [...new Set(events)];
}

export interface WebhookEvent {
  id: string;
  type: string;
  at: Date;
  sequence: bigint | null;
  account: string;
  data: unknown;
}

/**
 * The body of a request, the same at each try. `sequence` counts the endpoint's events without
 * gaps, so that a receiver can put them in order; a test has none.
 */
export function payloadOf({ id, type, at, sequence, account, data }: WebhookEvent): string {
  return JSON.stringify({
    id,
    type,
    timestamp: at.toISOString(),
    ...(sequence !== null && { sequence: sequence.toString() }),
    account_id: account,
    data,
  });
}
