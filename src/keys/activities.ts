import type { Client } from "@temporalio/client";
import type { KeyActivities } from "../../workflows/key-contract.js";
import type { Sql } from "../db/sql.js";
import { beat } from "../temporal/beat.js";
import { recordExpiryIfDue, sweepExpiredKeys } from "./expiry.js";
import { recordGraceEndIfDue, sweepEndedGraces } from "./grace.js";
import { reannounceKeys } from "./reannounce.js";

/** What workflows may ask about keys. */
export function keyActivities(sql: Sql, client: Client): KeyActivities {
  return {
    recordExpiryIfDue: async (id) => {
      const expiry = await recordExpiryIfDue(sql, id);
      if (expiry.kind === "none") return expiry;
      return { ...expiry, expiresAt: expiry.expiresAt.toISOString() };
    },
    recordGraceEndIfDue: async (id) => {
      const grace = await recordGraceEndIfDue(sql, id);
      if (grace.kind === "none") return grace;
      return { ...grace, until: grace.until.toISOString() };
    },
    sweepExpiredKeys: () => sweepExpiredKeys(sql, beat),
    sweepEndedGraces: () => sweepEndedGraces(sql, beat),
    reannounceKeys: (after) => reannounceKeys(sql, client, after, { onStep: beat }),
  };
}
