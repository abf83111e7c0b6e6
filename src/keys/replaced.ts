import type { Id } from "../base/ids.js";
import type { Tx } from "../db/sql.js";
import { enqueue } from "../temporal/outbox.js";
import type { SecretState } from "./key.js";
import { forgetReplacedSecrets } from "./store-secret.js";

/**
 * What follows from a new secret, in its transaction: secrets that no longer work are forgotten, and
 * the job that ends a grace is told of the new end.
 *
 * @param until end of the replaced secret's grace; null: it has none
 */
export async function replaceSecret(
  tx: Tx,
  key: Id,
  before: SecretState,
  until: Date | null,
): Promise<void> {
  await forgetReplacedSecrets(tx, [key]);
  if (until ?? before.previousSecretUntil) await enqueue(tx, { kind: "key_grace", key });
}
