import type { Log } from "../base/log.js";
import { MINUTE, pause } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import { forgetRequests } from "./request-store.js";

const PAGE = 1_000;
/** Of one look: what is left waits for the next, so that a day's worth never comes at once. */
const PAGES = 200;

/** Forgets all requests of more than 24 hours ago, in small transactions. @returns how many */
export async function forgetOldRequests(sql: Sql, signal?: AbortSignal): Promise<number> {
  let forgotten = 0;
  for (let page = 0; page < PAGES && !signal?.aborted; page++) {
    const more = await forgetRequests(sql, PAGE);
    forgotten += more;
    if (more < PAGE) break;
  }
  return forgotten;
}

/** Forgets old requests every minute, as long as this process lives; several may at once. */
export function keepForgetting(sql: Sql, log: Log): { stop(): Promise<void> } {
  const stopping = new AbortController();
  const { signal } = stopping;
  async function run(): Promise<void> {
    for (await pause(MINUTE, signal); !signal.aborted; await pause(MINUTE, signal)) {
      await forgetOldRequests(sql, signal).catch((error: unknown) =>
        log.warn({ err: error }, "old idempotency keys not forgotten"),
      );
    }
  }
  const running = run();
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
