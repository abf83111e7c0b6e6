import type { KeyActivities } from "../../workflows/contract.js";
import type { Sql } from "../db/sql.js";
import { beat } from "../temporal/beat.js";
import { recordExpiryIfDue, sweepExpiredKeys } from "./expiry.js";

/** What workflows may ask about keys. */
export function keyActivities(sql: Sql): KeyActivities {
  return {
    recordExpiryIfDue: async (id) => {
      const expiry = await recordExpiryIfDue(sql, id);
      if (expiry.kind === "none") return expiry;
      return { ...expiry, expiresAt: expiry.expiresAt.toISOString() };
    },
    sweepExpiredKeys: () => sweepExpiredKeys(sql, beat),
  };
}
