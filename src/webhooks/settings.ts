import { refuseField } from "../base/errors.js";
import { checkAmount, checkInteger } from "../base/field.js";
import type { Id } from "../base/ids.js";
import { lockForChange, recordAudit } from "../db/change.js";
import type { Db, Sql } from "../db/sql.js";
import { findSettings, type Settings, writeSettings } from "./store.js";

const DEFAULTS: Settings = { balanceLow: null, percents: [50, 80, 100] };
const MAX_PERCENTS = 10;

/** What an account is warned of; the defaults where it never said. */
export async function getSettings(db: Db, account: Id): Promise<Settings> {
  return (await findSettings(db, account)) ?? DEFAULTS;
}

/** Changes the fields of the patch; an empty list of percents means the default ones. */
export async function changeSettings(
  sql: Sql,
  account: Id,
  patch: Partial<Settings>,
): Promise<Settings> {
  const { balanceLow } = patch;
  if (typeof balanceLow === "bigint") checkAmount("balance_low_ngonka", balanceLow);
  const percents = patch.percents && { percents: checkPercents(patch.percents) };
  return await sql.begin(async (tx) => {
    const at = await lockForChange(tx, account);
    const after = { ...(await getSettings(tx, account)), ...patch, ...percents };
    await writeSettings(tx, account, after);
    const action = "webhook_setting.updated";
    const actor = `owner:${account}` as const;
    await recordAudit(tx, { account, at, actor, action, subject: account, change: { ...after } });
    return after;
  });
}

function checkPercents(percents: readonly number[]): number[] {
  const param = "limit_threshold_percents";
  if (percents.length > MAX_PERCENTS) throw refuseField(param, `has more than ${MAX_PERCENTS}`);
  for (const [i, percent] of percents.entries()) checkInteger(`${param}[${i}]`, percent, 1, 100);
  if (percents.length === 0) return DEFAULTS.percents;
  return [...new Set(percents)].sort((a, b) => a - b);
}
