import { Redis } from "ioredis";

/** Milliseconds after which an answer of Redis is not waited for any longer. */
const PATIENCE = 100;
const CONNECT_TIMEOUT = 1_000;
const MAX_RECONNECT_WAIT = 2_000;

/**
 * Opens a connection to Redis that fails fast: while it is away, commands are refused at once
 * instead of being queued, and it reconnects by itself. Who uses it goes on without it, and says
 * so.
 */
export function openRedis(url: string): Redis {
  const redis = new Redis(url, {
    connectTimeout: CONNECT_TIMEOUT,
    commandTimeout: PATIENCE,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: (attempt) => Math.min(50 * 2 ** Math.min(attempt, 10), MAX_RECONNECT_WAIT),
  });
  // Without a listener, a lost connection would end the process
  redis.on("error", () => {});
  return redis;
}
