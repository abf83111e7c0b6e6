import type { Deed } from "../../workflows/contract.js";
import { recordAudit } from "../db/change.js";
import type { Tx } from "../db/sql.js";
import { clock, isNoted } from "./set-aside-store.js";

/**
 * Writes what an operator ordered to the audit trail, with who and why.
 *
 * @param id of the order: noting it again notes nothing
 */
export async function noteOrder(tx: Tx, id: string, deed: Deed): Promise<void> {
  const { action, subject, account, by, reason } = deed;
  if (await isNoted(tx, account ?? null, id)) return;
  await recordAudit(tx, {
    ...{ at: await clock(tx), actor: "admin", action, subject, change: { by, reason, order: id } },
    ...(account && { account }),
  });
}
