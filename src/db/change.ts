import { refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import { lockAccounts, type Tx } from "./sql.js";

/** Who changes something, as the audit trail names them. */
export type Actor = `owner:${Id}` | `management_key:${Id}` | "admin" | "system";

/**
 * Locks an account for a change to it or to its keys, and moves its time on. Comes first in each
 * such transaction.
 *
 * @returns the account's time, after all that happened before
 * @throws not_found
 */
export async function lockForChange(tx: Tx, account: Id): Promise<Date> {
  const [locked] = await lockAccounts(tx, [account]);
  if (!locked) throw refuse("not_found");
  await tx`update account set last_at = ${locked.at} where id = ${account}`;
  return locked.at;
}

export interface AuditEvent {
  /** Absent for what concerns no account. */
  account?: Id;
  at: Date;
  actor: Actor;
  /** `<noun>.<past verb>`: child_key.updated */
  action: string;
  /** Id of what was changed. */
  subject: string;
  /** Fields as they are now. Never a secret. */
  change?: Record<string, unknown>;
}

/**
 * Notes who changed what, in the transaction of the change. Amounts become decimal strings, times
 * ISO 8601.
 */
export async function recordAudit(tx: Tx, event: AuditEvent): Promise<void> {
  const change = JSON.stringify(event.change ?? {}, (_name, value) =>
    typeof value === "bigint" ? value.toString() : value,
  );
  await tx`
    insert into audit_event (account_id, at, actor, action, subject, change)
    values (${event.account ?? null}, ${event.at}, ${event.actor}, ${event.action},
      ${event.subject},
            ${change}::text::jsonb)`;
}
