import { Context } from "@temporalio/activity";
import { SECOND } from "../base/time.js";

const EVERY = 2 * SECOND;

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

/**
 * Runs a long activity and tells Temporal that it goes on even while one step of it takes long: so
 * one that ended with its worker is noticed soon.
 *
 * @param work gets where the last attempt was, and tells where a next one may take it up
 */
export async function whileBeating<Answer>(
  work: (taken: { from: string | undefined; beat: (progress: string) => void }) => Promise<Answer>,
): Promise<Answer> {
  const context = Context.current();
  const from: string | undefined = context.info.heartbeatDetails;
  let reached = from;
  const timer = setInterval(() => context.heartbeat(reached), EVERY);
  try {
    return await work({
      from,
      beat: (progress) => {
        reached = progress;
        beat(progress);
      },
    });
  } finally {
    clearInterval(timer);
  }
}
