import { Context } from "@temporalio/activity";
import type { ReconcileActivities } from "../../workflows/contract.js";
import { pause, SECOND } from "../base/time.js";
import { connect, type Sql } from "../db/sql.js";
import { beat } from "../temporal/beat.js";
import { closeReconcile, openReconcile, reconcileBacklog, reconcileBooks } from "./reconcile.js";

/** The snapshot, two that recompute posts, one that notes the checkpoint. */
const CONNECTIONS = 4;
const BEAT_EVERY = 10 * SECOND;

/**
 * What workflows may ask of the proof.
 *
 * @param databaseUrl whose login reads the books: one that owns them may note a checkpoint, which
 *   the application's role may not
 */
export function reconcileActivities(
  sql: Sql,
  databaseUrl: string | undefined,
): ReconcileActivities {
  return {
    openReconcile: (order) => openReconcile(sql, order),
    proveBooks: async (day) => {
      if (!databaseUrl) throw new Error("DATABASE_URL is not set");
      const books = connect(databaseUrl, { name: "keytoll reconcile", max: CONNECTIONS });
      const cut = () => void books.end({ timeout: 0 });
      const { cancellationSignal } = Context.current();
      cancellationSignal.addEventListener("abort", cut, { once: true });
      const done = new AbortController();
      const beating = keepBeating(done.signal);
      try {
        await reconcileBooks(sql, books, day, beat);
      } finally {
        done.abort();
        await beating;
        cancellationSignal.removeEventListener("abort", cut);
        await books.end({ timeout: 0 });
      }
    },
    examineBacklog: () => reconcileBacklog(sql),
    closeReconcile: (day) => closeReconcile(sql, day),
  };
}

/** One statement of a proof may take longer than a heartbeat may be away. */
async function keepBeating(done: AbortSignal): Promise<void> {
  for (; !done.aborted; await pause(BEAT_EVERY, done)) Context.current().heartbeat();
}
