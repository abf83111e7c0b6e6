import type { Id } from "../base/ids.js";
import type { Sealed, Vault } from "../base/vault.js";
import type { Db, Sql, Tx } from "../db/sql.js";

interface SecretRow extends Sealed {
  endpoint: Id;
  version: number;
}

const PAGE = 500;

const placeOf = (endpoint: Id, version: number): string => `${endpoint}/${version}`;

export async function insertSecret(
  tx: Tx,
  vault: Vault,
  { endpoint, version, secret }: { endpoint: Id; version: number; secret: string },
): Promise<void> {
  const { keyName, sealed } = vault.seal(secret, placeOf(endpoint, version));
  await tx`
    insert into webhook_secret (endpoint_id, version, key_name, sealed)
    values (${endpoint}, ${version}, ${keyName}, ${sealed})`;
}

/** The new version signs from now on; the one before until `graceEnd` too, any older no longer. */
export async function replaceSecret(
  tx: Tx,
  endpoint: Id,
  { version, graceEnd, at }: { version: number; graceEnd: Date; at: Date },
): Promise<void> {
  await tx`
    update webhook_endpoint set secret_version = ${version}, updated_at = ${at}
     where id = ${endpoint}`;
  await tx`
    update webhook_secret set valid_until = ${graceEnd}
     where endpoint_id = ${endpoint} and version = ${version - 1}`;
  await tx`
    update webhook_secret set sealed = '', valid_until = ${at}
     where endpoint_id = ${endpoint} and version < ${version - 1} and sealed <> ''`;
}

/** Secrets that sign for an endpoint now, the newest first. */
export async function readSecrets(db: Db, vault: Vault, endpoint: Id): Promise<string[]> {
  const rows = await db<SecretRow[]>`
    select endpoint_id as endpoint, version, key_name as "keyName", sealed from webhook_secret
     where endpoint_id = ${endpoint} and sealed <> ''
       and (valid_until is null or valid_until > keytoll_clock())
     order by version desc`;
  return rows.map((row) => vault.open(row, placeOf(row.endpoint, row.version)));
}

/**
 * Seals with the newest key what an older one has sealed, so that the older can be forgotten. What
 * none of ours opens is left as it is.
 *
 * @returns how many were sealed anew
 */
export async function resealSecrets(sql: Sql, vault: Vault): Promise<number> {
  const rows = await sql<SecretRow[]>`
    select endpoint_id as endpoint, version, key_name as "keyName", sealed from webhook_secret
     where key_name <> ${vault.newest} and sealed <> '' limit ${PAGE}`;
  let done = 0;
  for (const row of rows) {
    const place = placeOf(row.endpoint, row.version);
    const secret = opened(vault, row, place);
    if (secret === undefined) continue;
    const { keyName, sealed } = vault.seal(secret, place);
    await sql`
      update webhook_secret set key_name = ${keyName}, sealed = ${sealed}
       where endpoint_id = ${row.endpoint} and version = ${row.version}
         and key_name = ${row.keyName}`;
    done += 1;
  }
  return done === PAGE ? done + (await resealSecrets(sql, vault)) : done;
}

function opened(vault: Vault, row: SecretRow, place: string): string | undefined {
  try {
    return vault.open(row, place);
  } catch {
    return undefined;
  }
}
