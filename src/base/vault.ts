import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";

/** A secret as it is stored. */
export interface Sealed {
  /** Which key sealed it. */
  keyName: string;
  /** Nonce, tag and ciphertext of AES-256-GCM. */
  sealed: Buffer;
}

export interface Vault {
  /** Name of the key that seals now. */
  newest: string;
  /** @param place where it is stored: it opens nowhere else */
  seal(secret: string, place: string): Sealed;
  /** @throws Error where its key is not among ours, or it was changed or moved */
  open(sealed: Sealed, place: string): string;
}

const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/**
 * Seals what must be read again, so that the database alone does not tell it.
 *
 * @param secrets of the operator, newest first: the newest seals, all open
 * @param what    is sealed: each kind of thing has keys of its own
 * @throws Error where there is no secret
 */
export function createVault(secrets: readonly string[], what: string): Vault {
  const keys = secrets.map((secret) => ({
    name: derive(secret, `${what}: name`, 4).toString("hex"),
    key: derive(secret, `${what}: key`, 32),
  }));
  const newest = keys[0];
  if (!newest) throw new Error(`KEYTOLL_SECRET is not set: no ${what} can be kept`);
  return {
    newest: newest.name,
    seal(secret, place) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv("aes-256-gcm", newest.key, nonce).setAAD(Buffer.from(place));
      const text = Buffer.concat([cipher.update(secret, "utf8"), cipher.final()]);
      return { keyName: newest.name, sealed: Buffer.concat([nonce, cipher.getAuthTag(), text]) };
    },
    open({ keyName, sealed }, place) {
      const key = keys.find((each) => each.name === keyName)?.key;
      if (!key) throw new Error(`KEYTOLL_SECRET no longer has the secret that made ${keyName}`);
      const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, NONCE_BYTES), {
        authTagLength: TAG_BYTES,
      });
      decipher.setAAD(Buffer.from(place));
      decipher.setAuthTag(sealed.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
      const text = decipher.update(sealed.subarray(NONCE_BYTES + TAG_BYTES));
      return Buffer.concat([text, decipher.final()]).toString("utf8");
    },
  };
}

function derive(secret: string, use: string, bytes: number): Buffer {
  return Buffer.from(hkdfSync("sha256", secret, "", `keytoll ${use}`, bytes));
}
