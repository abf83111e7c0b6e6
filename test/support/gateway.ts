import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { creditAccount, register } from "../../src/accounts/accounts.js";
import { newId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { NGONKA_PER_GNK } from "../../src/base/money.js";
import { connect } from "../../src/db/sql.js";
import { createAuthenticator } from "../../src/edge/auth.js";
import { createOpenAiDoor } from "../../src/edge/openai.js";
import { createHolds } from "../../src/holds/engine.js";
import { DEMO_MODELS } from "../../src/inference/demo-models.js";
import { startDemoUpstream } from "../../src/inference/demo-upstream.js";
import { createInference } from "../../src/inference/inference.js";
import type { Timeouts } from "../../src/inference/upstream.js";
import { createUpstreams } from "../../src/inference/upstreams.js";
import { createKeyring } from "../../src/keys/authenticate.js";
import { createChildKey } from "../../src/keys/child-keys.js";
import type { ChildFields } from "../../src/keys/key.js";
import { createManagementKey } from "../../src/keys/management-keys.js";
import { createRateLimiter } from "../../src/keys/rate-limit.js";
import { createPriceBook, setModelPrice } from "../../src/pricing/prices.js";
import { freshDatabase } from "./database.js";

const PEPPER = "a pepper of the tests, 32 bytes or more";
const UPSTREAM_KEY = "upstream-key-of-the-tests";
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

export interface TestGatewayOptions {
  /** Base URL of an upstream; the demo upstream when absent. */
  upstreamUrl?: string;
  timeouts?: Timeouts;
}

export type TestGateway = Awaited<ReturnType<typeof startTestGateway>>;

/** A gateway with real holds on a database of its own, an owner with 0.1 GNK, and priced demo models. */
export async function startTestGateway({ upstreamUrl, timeouts }: TestGatewayOptions = {}) {
  const database = await freshDatabase();
  const sql = connect(database.url, { name: "test gateway", max: 12 });
  const log = createLog("silent", "test");
  const demo = await startDemoUpstream({ port: 0, key: UPSTREAM_KEY });
  const url = upstreamUrl ?? demo.url;
  const upstreams = createUpstreams(
    [{ name: "demo", url, key: UPSTREAM_KEY, models: null }],
    timeouts,
  );
  const [gateway] = await sql<{ id: string }[]>`
    insert into gateway values (${newId()}, now(), now()) returning id`;
  const holds = createHolds(sql, { gateway: gateway?.id ?? null });
  const prices = createPriceBook(sql);
  const keyring = createKeyring(sql, [PEPPER]);
  const { requireChild } = createAuthenticator({ keyring, secrets: [PEPPER] });
  const limiter = createRateLimiter({ redis: undefined, log });
  const inference = createInference({ holds, prices, upstreams, log });
  const door = createOpenAiDoor({ inference, limiter, sql, requireChild, log });
  const server = createServer((request, response) => {
    void door(request, response, request.url?.split("?")[0] ?? "/").then((handled) => {
      if (!handled) response.writeHead(404).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;

  for (const { id: model } of DEMO_MODELS) {
    const terms = { ...DEMO_PRICE, contextTokens: null, maxOutputTokens: 8_192, enabled: true };
    await setModelPrice(sql, { model, ...terms });
  }
  const account = await register(sql, {
    email: "owner@example.com",
    password: "correct horse battery",
    referralCode: undefined,
  });
  await creditAccount(sql, { account, amount: NGONKA_PER_GNK / 10n, reference: "test" });
  const owner = { kind: "owner", account } as const;
  const managementKey = await createManagementKey(
    sql,
    owner,
    { name: "SaaS", access: "read_write", expiresAt: null },
    PEPPER,
  );

  return {
    url: `http://127.0.0.1:${port}`,
    sql,
    account,
    inference,
    limiter,
    requireChild,
    managementSecret: managementKey.secret,
    /** A new child key. @returns its id and secret */
    async createChild(fields: Partial<ChildFields> = {}) {
      const wanted = { ...NO_LIMITS, ...fields };
      const { key, secret } = await createChildKey(
        sql,
        owner,
        managementKey.key.id,
        wanted,
        PEPPER,
      );
      return { id: key.id, secret };
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      inference.close();
      await holds.close();
      await Promise.all([upstreams.close(), keyring.stop(), prices.stop(), demo.close()]);
      await sql.end({ timeout: 5 });
      await database.drop();
    },
  };
}
