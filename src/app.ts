import type { IncomingMessage, ServerResponse } from "node:http";
import { adminHandlers } from "./accounts/admin-rpc.js";
import { accountHandlers, authHandlers } from "./accounts/rpc.js";
import type { Config } from "./base/config.js";
import { newId } from "./base/ids.js";
import type { Log } from "./base/log.js";
import { openRedis } from "./db/redis.js";
import { connect } from "./db/sql.js";
import { createAuthenticator } from "./edge/auth.js";
import { createHealth, createHealthDoor } from "./edge/health.js";
import { managementRoutes } from "./edge/management.js";
import { createMetrics } from "./edge/metrics.js";
import { createOpenAiDoor } from "./edge/openai.js";
import { connectHandler } from "./edge/wire/connect.js";
import { type ServiceTable, service } from "./edge/wire/handlers.js";
import { withHealth } from "./edge/wire/health.js";
import { withReflection } from "./edge/wire/reflection.js";
import { restHandler } from "./edge/wire/rest.js";
import { AccountService } from "./gen/keytoll/v1/account_pb.js";
import { AdminService } from "./gen/keytoll/v1/admin_pb.js";
import { AuthService } from "./gen/keytoll/v1/auth_pb.js";
import { HoldService } from "./gen/keytoll/v1/hold_pb.js";
import { InferenceService } from "./gen/keytoll/v1/inference_pb.js";
import { KeyService } from "./gen/keytoll/v1/key_pb.js";
import { createHolds } from "./holds/engine.js";
import { keepLease } from "./holds/lease.js";
import { holdHandlers } from "./holds/rpc.js";
import { keepSweeping } from "./holds/sweeper.js";
import { createInference } from "./inference/inference.js";
import { inferenceHandlers } from "./inference/rpc.js";
import { createUpstreams, readUpstreams } from "./inference/upstreams.js";
import { createKeyring } from "./keys/authenticate.js";
import { createRateLimiter } from "./keys/rate-limit.js";
import { keyHandlers } from "./keys/rpc.js";
import { createPriceBook } from "./pricing/prices.js";
import { VERSION } from "./version.js";

/** Batches run on connections of their own, so that a slow list of keys never holds up money. */
const MONEY_CONNECTIONS = 6;
const OTHER_CONNECTIONS = 10;

export interface App {
  /** Every method that can be called, for the listeners. */
  services: ServiceTable;
  /** Takes any HTTP request. */
  handle(request: IncomingMessage, response: ServerResponse): void;
  close(): Promise<void>;
}

/**
 * Puts a gateway together: everything but its listeners.
 *
 * @param env where keys of upstreams stand under the names that the upstreams file gives
 * @throws Error in words where the configuration or the database do not do
 */
export async function createApp(
  config: Config,
  env: Record<string, string | undefined>,
  log: Log,
): Promise<App> {
  const url = required(config.databaseUrl, "DATABASE_URL");
  const [pepper] = config.secrets;
  const specs = readUpstreams(config, env);
  const gateway = newId();
  const money = connect(url, { name: "keytoll money", max: MONEY_CONNECTIONS });
  const sql = connect(url, { name: "keytoll", max: OTHER_CONNECTIONS });
  const redis = config.redisUrl === undefined ? undefined : openRedis(config.redisUrl);
  const lease = await keepLease(sql, gateway, log);
  const sweeper = keepSweeping(sql, log);
  const metrics = createMetrics(sql);
  const keyring = createKeyring(sql, config.secrets);
  const prices = createPriceBook(sql);
  const upstreams = createUpstreams(specs);
  const holds = metrics.measured(createHolds(money, { gateway }));
  const inference = createInference({ holds, prices, upstreams, log });
  const limiter = createRateLimiter({ redis, log });
  const { adminToken, secrets, production } = config;
  const authenticator = createAuthenticator({ keyring, secrets, adminToken });
  const health = createHealth({ sql, redis, upstreams: specs.length, lease });

  const { requireOwner, requireOwnerOrManager, requireChild, requireAdmin } = authenticator;
  const own = [
    service(
      AuthService,
      authHandlers({ sql, issueToken: authenticator.issueToken, takeTurn: limiter.take }),
    ),
    service(AccountService, accountHandlers({ sql, requireOwner })),
    service(
      KeyService,
      keyHandlers({
        sql,
        pepper: required(pepper, "KEYTOLL_SECRET"),
        requireOwner,
        requireOwnerOrManager,
      }),
    ),
    service(HoldService, holdHandlers({ sql, holds, prices, keyring, requireOwnerOrManager })),
    service(InferenceService, inferenceHandlers({ inference, limiter, requireChild })),
    service(
      AdminService,
      adminHandlers({
        sql,
        requireAdmin,
        health: async () => ({ version: VERSION, ...(await health()) }),
      }),
    ),
  ];
  const services = withReflection(
    withHealth(own, async () => (await health()).ready),
    async ({ authorization }) => {
      if (production) await requireAdmin(authorization);
    },
  );
  const openAi = createOpenAiDoor({ inference, limiter, sql, requireChild, log });
  const healthDoor = createHealthDoor({ health, metrics, authenticator, production, log });
  const rest = restHandler(managementRoutes(own), log);
  const rpc = connectHandler({ services, log, fallback: rest });

  return {
    services,
    handle(request, response) {
      const path = pathOf(request);
      metrics.watch(response, routeName(path));
      if (healthDoor(request, response, path)) return;
      void openAi(request, response, path).then((handled) => {
        if (!handled) rpc(request, response);
      });
    },
    async close() {
      inference.close();
      await sweeper.stop();
      await holds.close();
      await lease.stop();
      await Promise.all([keyring.stop(), prices.stop(), upstreams.close()]);
      redis?.disconnect();
      await Promise.all([money.end({ timeout: 5 }), sql.end({ timeout: 5 })]);
    },
  };
}

function required(value: string | undefined, name: string): string {
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}

const pathOf = (request: IncomingMessage): string => (request.url ?? "/").split("?", 1)[0] ?? "/";

/** The path with its ids taken out, for metrics: few names, whatever callers make up. */
function routeName(path: string): string {
  const known =
    /^\/(?:api\/(?:v1|auth|account|management|admin)|v1|healthz|readyz|metrics|keytoll\.v1\.[A-Za-z]+)/;
  return known.exec(path)?.[0] ?? "other";
}
