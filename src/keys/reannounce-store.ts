import type { KeyMoment, KeyRef } from "../../workflows/key-contract.js";
import type { Db } from "../db/sql.js";

export type NextMoment = KeyMoment & KeyRef & { waitMs: number };

/**
 * The next moments of keys after the given one, or from now on: when they expire, and when the
 * grace of a replaced secret ends. By indexes, however many keys there are.
 */
export async function nextMoments(
  db: Db,
  after: KeyMoment | null,
  limit: number,
): Promise<NextMoment[]> {
  const { at, keyId, kind } = after ?? { at: null, keyId: null, kind: null };
  const soonest = (table: string, column: string, moment: KeyMoment["kind"], more: string) => db`
    (select ${db(column)} as at, id, ${moment} as kind, account_id, name, hint from ${db(table)}
      where ${db(column)} >= coalesce(${at}::timestamptz, (select keytoll_clock()))
        and (${at}::timestamptz is null
          or (${db(column)}, id, ${moment}::text) > (${at}::timestamptz, ${keyId}::uuid, ${kind}::text))
        ${db.unsafe(more)}
      order by ${db(column)}, id limit ${limit})`;
  const unrecorded = `and expires_at is not null and status <> 'deleted'
                      and expiry_recorded is distinct from expires_at`;
  return await db<NextMoment[]>`
    select m.at::text, m.id as "keyId", m.kind, m.account_id as "accountId", m.name, m.hint,
           ceil(extract(epoch from m.at - keytoll_clock()) * 1000)::float8 as "waitMs"
      from (${soonest("child_key", "expires_at", "expiry", unrecorded)}
            union all
            ${soonest("management_key", "expires_at", "expiry", unrecorded)}
            union all
            ${soonest("child_key", "previous_secret_until", "grace", "")}
            union all
            ${soonest("management_key", "previous_secret_until", "grace", "")}) m
     order by m.at, m.id, m.kind limit ${limit}`;
}
