import postgres from "postgres";
import { pause } from "../base/time.js";
import type { Sql } from "./sql.js";

const RETRY_MS = 200;

interface Ear {
  heard(payload: string): void;
  /** Each time that listening begins: what was notified until now may have been missed. */
  connected(): void;
}

/**
 * Listens on a channel of Postgres by a connection of its own, and again after each loss of it. The
 * driver's own `listen` gives up when the first try to connect again fails.
 *
 * @param sql pool whose settings the connection takes
 */
export function listen(sql: Sql, channel: string, ear: Ear): { stop(): Promise<void> } {
  const stopped = new AbortController();
  let closed = () => {};
  const options = {
    ...sql.options,
    max: 1,
    fetch_types: false,
    onnotify: (_channel: string, payload: string) => ear.heard(payload),
    onclose: () => closed(),
  };
  const line = postgres(options as unknown as postgres.Options<Record<string, never>>);

  async function keepListening(): Promise<void> {
    while (!stopped.signal.aborted) {
      const lost = new Promise<void>((resolve) => {
        closed = resolve;
      });
      try {
        await line`listen ${line(channel)}`;
        ear.connected();
        await lost;
      } catch {
        await pause(RETRY_MS, stopped.signal);
      }
    }
  }
  const listening = keepListening();

  return {
    stop: async () => {
      stopped.abort();
      await line.end({ timeout: 1 });
      closed();
      await listening;
    },
  };
}
