import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { creditAccount, register } from "../../src/accounts/accounts.js";
import { readConfig } from "../../src/base/config.js";
import { createLog } from "../../src/base/log.js";
import { NGONKA_PER_GNK } from "../../src/base/money.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { DEMO_MODELS } from "../../src/inference/demo-models.js";
import { startDemoUpstream } from "../../src/inference/demo-upstream.js";
import { createChildKey } from "../../src/keys/child-keys.js";
import type { ChildFields } from "../../src/keys/key.js";
import { createManagementKey } from "../../src/keys/management-keys.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import { startGateway } from "../../src/server.js";
import { freshDatabase } from "./database.js";

export const UPSTREAM_KEY = "upstream-key-of-the-tests";
/** Ngonka per million tokens: odd, so that rounding shows. */
export const DEMO_PRICE = { inputPerMtok: 15_000_001n, outputPerMtok: 30_000_003n };

const NO_LIMITS: ChildFields = {
  name: "Client A",
  limitDaily: null,
  limitMonthly: null,
  limitTotal: null,
  rateLimitRpm: null,
  expiresAt: null,
  models: null,
  metadata: {},
};

export type TestGateway = Awaited<ReturnType<typeof startTestGateway>>;

interface Wanted {
  /** Base URL of an upstream; a demo upstream when absent. */
  upstreamUrl?: string;
  /** Instead of it: what stands in a file of upstreams, the name of their key's variable aside. */
  upstreams?: readonly object[];
}

/**
 * The gateway as `keytoll serve` runs it, on free ports and a database of its own, with an owner
 * who has 0.1 GNK, and priced demo models.
 */
export async function startTestGateway({ upstreamUrl, upstreams }: Wanted = {}) {
  const database = await freshDatabase();
  const demo = await startDemoUpstream({ port: 0, key: UPSTREAM_KEY });
  const pepper = randomBytes(32).toString("hex");
  const adminToken = randomBytes(32).toString("hex");
  const folder = mkdtempSync(join(tmpdir(), "keytoll-gateway-"));
  const upstreamsFile = join(folder, "upstreams.json");
  const entries = upstreams?.map((entry) => ({ key_env: "UPSTREAM_KEY", ...entry }));
  if (entries) writeFileSync(upstreamsFile, JSON.stringify(entries));
  const config = readConfig({
    DATABASE_URL: database.url,
    KEYTOLL_SECRET: pepper,
    KEYTOLL_ADMIN_TOKEN: adminToken,
    KEYTOLL_FAILED_AUTH_RPM: "0",
    ...(entries
      ? { KEYTOLL_UPSTREAMS_FILE: upstreamsFile }
      : { KEYTOLL_UPSTREAM_URL: upstreamUrl ?? demo.url, KEYTOLL_UPSTREAM_KEY: UPSTREAM_KEY }),
    PORT: "0",
    GRPC_PORT: "0",
  });
  const gateway = await startGateway(config, { UPSTREAM_KEY }, createLog("silent", "test"));
  const sql = connect(database.url, { name: "test", max: 3 });

  for (const { id: model } of DEMO_MODELS) {
    const terms = { ...DEMO_PRICE, contextTokens: null, maxOutputTokens: 8_192, enabled: true };
    await setModelPrice(sql, { model, ...terms });
  }
  const owner = await openOwner(sql, "owner@example.com", NGONKA_PER_GNK / 10n, pepper);

  return {
    url: gateway.http,
    /** host:port */
    grpc: gateway.grpc,
    sql,
    adminToken,
    ...owner,
    /** A further owner, with so many ngonka. */
    createOwner: (email: string, balance: bigint) => openOwner(sql, email, balance, pepper),
    async close() {
      await Promise.all([gateway.close(), demo.close()]);
      await sql.end({ timeout: 5 });
      await database.drop();
      rmSync(folder, { recursive: true });
    },
  };
}

/** An owner with a balance and a management key. */
async function openOwner(sql: Sql, email: string, balance: bigint, pepper: string) {
  const password = "correct horse battery";
  const account = await register(sql, { email, password, referralCode: undefined });
  await creditAccount(sql, { account, amount: balance, reference: email });
  const owner = { kind: "owner", account } as const;
  const fields = { name: "SaaS", access: "read_write", expiresAt: null } as const;
  const managementKey = await createManagementKey(sql, owner, fields, pepper);
  return {
    account,
    managementKey: managementKey.key.id,
    managementSecret: managementKey.secret,
    /** A new child key. @returns its id and secret */
    async createChild(wanted: Partial<ChildFields> = {}) {
      const all = { ...NO_LIMITS, ...wanted };
      const { key, secret } = await createChildKey(sql, owner, managementKey.key.id, all, pepper);
      return { id: key.id, secret };
    },
  };
}
