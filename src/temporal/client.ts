import { Client, Connection, isGrpcServiceError } from "@temporalio/client";
import { NamespaceNotFoundError } from "@temporalio/common";
import { now, pause, SECOND } from "../base/time.js";

export interface Place {
  /** host:port */
  address: string;
  namespace: string;
}

export interface OpenClient {
  client: Client;
  close(): Promise<void>;
}

const ATTEMPT_MS = 10 * SECOND;
const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 2 * SECOND;
/** gRPC: cancelled, deadline exceeded, resource exhausted, unavailable. */
const AWAY = new Set([1, 4, 8, 14]);

/** A client that connects when it is first used, and again by itself after an outage. */
export function openClient({ address, namespace }: Place): OpenClient {
  const connection = Connection.lazy({
    address,
    channelArgs: { "grpc.max_reconnect_backoff_ms": LONGEST_PAUSE },
    // No retries of the client's own: whoever calls tries again, and learns at once that Temporal
    // is away
    interceptors: [],
  });
  return { client: new Client({ connection, namespace }), close: () => connection.close() };
}

/**
 * True for an error that says nothing of what was asked, only that Temporal did not answer it now.
 */
export function isAway(error: unknown): boolean {
  if (error instanceof NamespaceNotFoundError) return true;
  if (isGrpcServiceError(error)) return AWAY.has(error.code);
  return error instanceof Error && error.cause !== undefined && isAway(error.cause);
}

interface Waiting {
  signal: AbortSignal;
  /** Called once, when the first try was in vain. */
  onAway?: () => void;
  /** Called when it answers after that. */
  onBack?: () => void;
}

/**
 * Waits until Temporal answers for our namespace, however long that takes.
 *
 * @returns false when `signal` ended the waiting
 */
export async function untilReachable(
  client: Client,
  { signal, onAway, onBack }: Waiting,
): Promise<boolean> {
  for (let wait = FIRST_PAUSE; !signal.aborted; wait = Math.min(wait * 2, LONGEST_PAUSE)) {
    if (await answers(client)) {
      if (wait > FIRST_PAUSE) onBack?.();
      return true;
    }
    if (wait === FIRST_PAUSE) onAway?.();
    await pause(wait, signal);
  }
  return false;
}

async function answers(client: Client): Promise<boolean> {
  const { namespace } = client.options;
  try {
    await client.withDeadline(now() + ATTEMPT_MS, () =>
      client.workflowService.describeNamespace({ namespace }),
    );
    return true;
  } catch {
    return false;
  }
}
