import type { Order, Retried } from "../../workflows/contract.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import { settleOrSetAside } from "./ledger.js";
import { noteOrder } from "./orders.js";
import { isNoted, makeDue } from "./set-aside-store.js";

const NOT_SET_ASIDE: Retried = { kind: "not_set_aside" };
/** An attempt before this one, whose answer was lost, has posted it. */
const NOTHING_MORE: Retried = { kind: "settled", records: 0, amountNgonka: "0" };

/**
 * Tries at once to post an account that is set aside, because an operator says so. Who and why goes
 * to the audit trail, whatever comes of it.
 *
 * @param id of the order: doing it again is noted once
 */
export async function retryAccount(
  sql: Sql,
  account: Id,
  id: string,
  order: Order,
): Promise<Retried> {
  const before = await sql.begin(async (tx) => {
    const deed = { ...order, action: "settlement.retried", subject: account, account };
    if (await makeDue(tx, account)) await noteOrder(tx, id, deed);
    else return (await isNoted(tx, account, id)) ? NOTHING_MORE : NOT_SET_ASIDE;
    return null;
  });
  if (before) return before;
  const posted = await settleOrSetAside(sql, { id: account, setAside: true });
  if (typeof posted === "string") return { kind: "failed", reason: posted };
  const { records, amount } = posted;
  return { kind: "settled", records: Number(records), amountNgonka: amount.toString() };
}
