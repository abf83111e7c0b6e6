import { createHmac, hash, randomBytes } from "node:crypto";

export type KeyKind = "management" | "child";

const PREFIX = { management: "gm-", child: "gc-" } as const satisfies Record<KeyKind, string>;
const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/**
 * 32 of 62 letters are 190 bits: 166 remain when the last four characters are known from the hint.
 */
const RANDOM_LETTERS = 32;
const CHECKSUM_LETTERS = 6;
const SHAPE = new RegExp(
  `^(g[mc]-[${ALPHABET}]{${RANDOM_LETTERS}})([${ALPHABET}]{${CHECKSUM_LETTERS}})$`,
);

/** A new random secret: `gm-` or `gc-`, 32 random letters, 6 letters of checksum. */
export function newSecret(kind: KeyKind): string {
  const body = PREFIX[kind] + randomLetters();
  return body + checksumOf(body);
}

/**
 * The kind of a well-formed secret; undefined for a mistyped, truncated or invented one, without
 * any look-up.
 */
export function kindOfSecret(secret: string): KeyKind | undefined {
  const [, body, checksum] = SHAPE.exec(secret) ?? [];
  if (body === undefined || checksumOf(body) !== checksum) return undefined;
  return body.startsWith(PREFIX.child) ? "child" : "management";
}

/** What may be shown of a secret after its creation. */
export const hintOf = (secret: string): string => `${secret.slice(0, 3)}...${secret.slice(-4)}`;

/** What is stored of a secret: HMAC-SHA256, keyed by the pepper. */
export const hashSecret = (secret: string, pepper: string): Buffer =>
  createHmac("sha256", pepper).update(secret).digest();

/** A short fingerprint of a pepper, stored beside the hashes that it made. */
export const nameOfPepper = (pepper: string): string =>
  createHmac("sha256", pepper).update("name of this pepper").digest("hex").slice(0, 8);

function randomLetters(): string {
  let letters = "";
  while (letters.length < RANDOM_LETTERS) {
    for (const byte of randomBytes(RANDOM_LETTERS)) {
      // 62 and 63 have no letter: taking them modulo 62 would make some letters likelier
      letters += ALPHABET[byte & 63] ?? "";
    }
  }
  return letters.slice(0, RANDOM_LETTERS);
}

function checksumOf(body: string): string {
  let rest = hash("sha256", body, "buffer").readUInt32BE();
  let letters = "";
  for (let i = 0; i < CHECKSUM_LETTERS; i++) {
    letters = `${ALPHABET[rest % ALPHABET.length]}${letters}`;
    rest = Math.floor(rest / ALPHABET.length);
  }
  return letters;
}
