import { createHmac, hash, randomBytes, timingSafeEqual } from "node:crypto";
import { jwtVerify, SignJWT } from "jose";
import { LRUCache } from "lru-cache";
import { refuse } from "../base/errors.js";
import { type Id, isId } from "../base/ids.js";
import { DAY, now, SECOND } from "../base/time.js";
import type { Keyring } from "../keys/authenticate.js";
import type { Caller, ChildCaller, Credentials, Manager, OwnerCaller } from "../keys/caller.js";
import type { Failures } from "./failures.js";

const TOKEN_LIFE = DAY;
const ISSUER = "keytoll";
const AUDIENCE = "owner";
const MAX_CREDENTIAL = 2_048;
/** About 0.3 kB each. */
const MAX_VERIFIED = 10_000;

/** What is asked of a caller's authorization by those who manage keys. */
export type Need = "read" | "write";

interface Settings {
  keyring: Keyring;
  /** Newest first: the newest signs owners' tokens, all verify. */
  secrets: readonly string[];
  /** Absent: nobody is admin. */
  adminToken?: string | undefined;
  failures: Failures;
}

export type Authenticator = ReturnType<typeof createAuthenticator>;

/**
 * Tells who calls, by the `authorization` header: an owner's token, a `gm-` or `gc-` key, or the
 * admin token. Missing, wrong, expired or disabled: `invalid_api_key`, which does not say which. A
 * caller of the wrong kind is `wrong_key_kind`. Wrong ones are counted by the address that they come
 * from; right ones cost nothing for it, and pass from anywhere.
 */
export function createAuthenticator({ keyring, secrets, adminToken, failures }: Settings) {
  const tokens = createTokens(secrets);
  const isAdmin = createComparison(adminToken);

  async function callerOf(shown: Credentials): Promise<Caller> {
    const credential = readBearer(shown.authorization);
    try {
      if (credential.startsWith("gm-") || credential.startsWith("gc-")) {
        return await keyring.find(credential);
      }
      if (isAdmin(credential)) return { kind: "admin" };
      return { kind: "owner", account: await tokens.accountOf(credential) };
    } catch (error) {
      throw await failures.count(error, shown.ip);
    }
  }

  async function requireOwner(shown: Credentials): Promise<OwnerCaller> {
    const caller = await callerOf(shown);
    if (caller.kind !== "owner") throw refuse("wrong_key_kind");
    return caller;
  }

  /** @throws read_only_key  where a management key that may only read wants to write */
  async function requireOwnerOrManager(shown: Credentials, need: Need): Promise<Manager> {
    const caller = await callerOf(shown);
    if (caller.kind !== "owner" && caller.kind !== "management") throw refuse("wrong_key_kind");
    if (need === "write" && caller.kind === "management" && caller.access === "read_only") {
      throw refuse("read_only_key");
    }
    return caller;
  }

  async function requireChild(shown: Credentials): Promise<ChildCaller> {
    const caller = await callerOf(shown);
    if (caller.kind !== "child") throw refuse("wrong_key_kind");
    return caller;
  }

  async function requireAdmin(shown: Credentials): Promise<void> {
    const caller = await callerOf(shown);
    if (caller.kind !== "admin") throw refuse("wrong_key_kind");
  }

  return {
    callerOf,
    requireOwner,
    requireOwnerOrManager,
    requireChild,
    requireAdmin,
    /** A token that makes its bearer the owner of an account for 24 hours. */
    issueToken: tokens.issue,
  };
}

function readBearer(authorization = ""): string {
  const credential = authorization.slice("bearer ".length).trim();
  const wellFormed = /^bearer /i.test(authorization) && credential.length <= MAX_CREDENTIAL;
  if (!wellFormed || credential === "") throw refuse("invalid_api_key");
  return credential;
}

/**
 * Compares with the admin token in a time that tells nothing: both sides are hashed to one length
 * first.
 */
function createComparison(adminToken: string | undefined): (credential: string) => boolean {
  const key = randomBytes(32);
  const hash = (text: string) => createHmac("sha256", key).update(text).digest();
  const expected = adminToken === undefined ? undefined : hash(adminToken);
  return (credential) => expected !== undefined && timingSafeEqual(hash(credential), expected);
}

/** Makes and reads the tokens of owners, which a pepper signs. */
export function createTokens(secrets: readonly string[]) {
  // Not the pepper itself, so that neither use can ever help to forge the other
  const keys = secrets.map((secret) => createHmac("sha256", secret).update("owner token").digest());

  async function issue(account: Id): Promise<{ token: string; expiresAt: Date }> {
    const [key] = keys;
    if (!key) throw new Error("no secret to sign tokens with");
    const issuedAt = Math.floor(now() / SECOND);
    const expiresAt = issuedAt + TOKEN_LIFE / SECOND;
    const token = await new SignJWT()
      .setProtectedHeader({ alg: "HS256", typ: "JWT" })
      .setIssuer(ISSUER)
      .setAudience(AUDIENCE)
      .setSubject(account)
      .setIssuedAt(issuedAt)
      .setExpirationTime(expiresAt)
      .sign(key);
    return { token, expiresAt: new Date(expiresAt * SECOND) };
  }

  // By hash, so that no token stays in memory. A signature stays right until its token expires, and
  // checking it costs more than all else that a small call does.
  const verified = new LRUCache<string, { account: Id; until: number }>({ max: MAX_VERIFIED });

  async function accountOf(token: string): Promise<Id> {
    const name = hash("sha256", token, "base64");
    const known = verified.get(name);
    if (known && now() < known.until) return known.account;
    for (const key of keys) {
      const claims = await claimsOf(token, key);
      if (claims === undefined || !isId(claims.account)) continue;
      verified.set(name, claims);
      return claims.account;
    }
    throw refuse("invalid_api_key");
  }

  return { issue, accountOf };
}

/** Whose token this is, and when it expires; undefined for one that is not valid now. */
async function claimsOf(
  token: string,
  key: Buffer,
): Promise<{ account: string; until: number } | undefined> {
  try {
    const { payload } = await jwtVerify(token, key, {
      algorithms: ["HS256"],
      issuer: ISSUER,
      audience: AUDIENCE,
      requiredClaims: ["sub", "exp"],
      currentDate: new Date(now()),
    });
    const { sub = "", exp = 0 } = payload;
    return { account: sub, until: exp * SECOND };
  } catch {
    return undefined;
  }
}
