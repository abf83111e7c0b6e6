import type { Id } from "../base/ids.js";
import type { Sealed } from "../base/vault.js";
import { only, type Tx } from "../db/sql.js";

/** Whose key, by its hash in hex. */
export interface CreateKey {
  scope: Id;
  hash: string;
}

export interface CreateRow {
  route: string;
  fingerprint: bigint;
  requestId: Id;
}

/**
 * Claims a key for the transaction's create. Where another transaction is about to, it waits for
 * that.
 *
 * @returns false where the key was used in the last 24 hours
 */
export async function claimCreate(tx: Tx, key: CreateKey, row: CreateRow): Promise<boolean> {
  const claimed = await tx`
    insert into idempotent_request as i
           (scope_id, key_hash, route, fingerprint, request_id, claimed_at)
    values (${key.scope}, decode(${key.hash}, 'hex'), ${row.route}, ${row.fingerprint},
            ${row.requestId}, keytoll_clock())
    on conflict (scope_id, key_hash) do update
       set route = excluded.route, fingerprint = excluded.fingerprint,
           request_id = excluded.request_id, claimed_at = excluded.claimed_at, answered_at = null
     where i.claimed_at <= excluded.claimed_at - interval '24 hours'
    returning 1`;
  return claimed.length > 0;
}

export async function findCreate(
  tx: Tx,
  { scope, hash }: CreateKey,
): Promise<CreateRow & Partial<Sealed>> {
  return only(
    await tx<(CreateRow & Sealed)[]>`
      select route, fingerprint, request_id as "requestId", key_name as "keyName", sealed
        from idempotent_request where scope_id = ${scope} and key_hash = decode(${hash}, 'hex')`,
  );
}

export async function keepCreate(
  tx: Tx,
  { scope, hash }: CreateKey,
  { keyName, sealed }: Sealed,
): Promise<void> {
  await tx`
    update idempotent_request
       set answered_at = keytoll_clock(), key_name = ${keyName}, sealed = ${sealed}
     where scope_id = ${scope} and key_hash = decode(${hash}, 'hex')`;
}
