// The border of the webhook workflows: see contract.ts.

import type { Order } from "./contract.js";

/** Signals of the webhook workflows. */
export const WEBHOOK_SIGNALS = {
  /** There may be something to deliver. */
  due: "webhookDue",
  /** Whatever waits for its next try is tried at once. */
  retryNow: "retryNow",
} as const;

/** An endpoint of an owner. */
export interface WebhookEndpointRef {
  endpointId: string;
  /** Scheme and host: the path may hold a token. */
  target: string;
}

/** One event on its way to one endpoint. */
export interface WebhookRef {
  deliveryId: string;
  /** Scheme and host. */
  target: string;
  type: string;
}

/** A delivery whose last try was in vain. */
export interface WebhookWaiting {
  kind: "waiting";
  deliveryId: string;
  type: string;
  tries: number;
  waitMs: number;
  /** Why, in words; empty where it was not tried yet. */
  problem: string;
}

/** How far the line of an endpoint is, and how many were delivered just now. */
export type WebhookLine = { delivered: number } & (
  | { kind: "empty" }
  /** More waits; this look has taken its time. */
  | { kind: "more" }
  /** The endpoint is paused, disabled or deleted. */
  | { kind: "stopped"; why: string }
  | WebhookWaiting
);

export type WebhookState =
  | { kind: "delivered"; tries: number }
  | { kind: "failed"; tries: number; problem: string }
  /** Its endpoint is paused or disabled: resuming it takes it up again. */
  | { kind: "held"; why: string }
  /** It is delivered, given up or removed already. */
  | { kind: "none" }
  | WebhookWaiting;

/** Activities on the queue `webhooks`. */
export interface WebhookActivities {
  /** @param look `atOnce`: whatever its next try is due */
  deliverInOrder(look: { endpointId: string; atOnce: boolean }): Promise<WebhookLine>;
  deliverApart(look: { deliveryId: string; atOnce: boolean }): Promise<WebhookState>;
  giveUpDelivery(given: { deliveryId: string; order: Order }): Promise<void>;
}
