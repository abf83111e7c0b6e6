import { Context } from "@temporalio/activity";

/**
 * Tells Temporal that a long activity goes on, and where a next attempt may take it up.
 *
 * @throws CancelledFailure when the worker stops: the rest is for the next one
 */
export function beat(progress?: string): void {
  const context = Context.current();
  context.heartbeat(progress);
  context.cancellationSignal.throwIfAborted();
}
