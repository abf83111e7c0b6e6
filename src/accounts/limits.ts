import { checkInteger } from "../base/field.js";
import type { Id } from "../base/ids.js";
import { lockForChange, recordAudit } from "../db/change.js";
import { type Db, inTransaction, type Sql } from "../db/sql.js";
import { getAccount } from "./accounts.js";
import { type AccountRate, findRate, putRate } from "./limit-store.js";

const MAX_RPM = 1_000_000;
const MAX_CONCURRENCY = 100_000;
const NOTHING_SET: AccountRate = { rateLimitRpm: null, concurrency: null };

/** What the operator set for an account. @throws not_found */
export async function getAccountRate(db: Db, account: Id): Promise<AccountRate> {
  const rate = await findRate(db, account);
  if (!rate) await getAccount(db, account);
  return rate ?? NOTHING_SET;
}

/**
 * Sets what all keys of an account may send together, at once and for every gateway: null leaves
 * the default in force, 0 means no limit.
 *
 * @throws not_found, invalid_request_error by the field's name
 */
export async function setAccountRate(
  sql: Sql,
  account: Id,
  rate: AccountRate,
): Promise<AccountRate> {
  if (rate.rateLimitRpm !== null) checkInteger("rate_limit_rpm", rate.rateLimitRpm, 0, MAX_RPM);
  if (rate.concurrency !== null) checkInteger("concurrency", rate.concurrency, 0, MAX_CONCURRENCY);
  return await inTransaction(sql, async (tx) => {
    const at = await lockForChange(tx, account);
    await getAccount(tx, account);
    await putRate(tx, account, rate, at);
    const [action, change] = ["account.limits_set", { ...rate }];
    await recordAudit(tx, { account, at, actor: "admin", action, subject: account, change });
    return rate;
  });
}
