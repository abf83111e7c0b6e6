import type { IncomingMessage, ServerResponse } from "node:http";
import { adminHandlers } from "./accounts/admin-rpc.js";
import { accountHandlers, authHandlers } from "./accounts/rpc.js";
import type { Config } from "./base/config.js";
import { newId } from "./base/ids.js";
import type { Log } from "./base/log.js";
import { openRedis } from "./db/redis.js";
import { applicationUrl } from "./db/role.js";
import { connect } from "./db/sql.js";
import { createAnthropicDoor, speaksAnthropic } from "./edge/anthropic.js";
import { createAuthenticator } from "./edge/auth.js";
import { allowOrigin } from "./edge/cors.js";
import { failuresOf } from "./edge/failures.js";
import { createHealth, createHealthDoor } from "./edge/health.js";
import { managementRoutes } from "./edge/management.js";
import { createMetrics } from "./edge/metrics.js";
import { createOpenAiDoor } from "./edge/openai.js";
import { createOpenRouterDoor, managesKeys } from "./edge/openrouter.js";
import { openRouterWords } from "./edge/openrouter-words.js";
import { usageRoutes } from "./edge/usage.js";
import { webhookRoutes } from "./edge/webhooks.js";
import { connectHandler } from "./edge/wire/connect.js";
import { type ServiceTable, service } from "./edge/wire/handlers.js";
import { withHealth } from "./edge/wire/health.js";
import { withReflection } from "./edge/wire/reflection.js";
import { restHandler } from "./edge/wire/rest.js";
import { toRpcFailure } from "./edge/wire/status.js";
import { AccountService } from "./gen/keytoll/v1/account_pb.js";
import { AdminService } from "./gen/keytoll/v1/admin_pb.js";
import { AuthService } from "./gen/keytoll/v1/auth_pb.js";
import { HoldService } from "./gen/keytoll/v1/hold_pb.js";
import { InferenceService } from "./gen/keytoll/v1/inference_pb.js";
import { KeyService } from "./gen/keytoll/v1/key_pb.js";
import { ModelService } from "./gen/keytoll/v1/model_pb.js";
import { UsageService } from "./gen/keytoll/v1/usage_pb.js";
import { WebhookService } from "./gen/keytoll/v1/webhook_pb.js";
import { createDelivery } from "./holds/delivery/deliver.js";
import { createSpool } from "./holds/delivery/spool.js";
import { createHolds } from "./holds/engine.js";
import { keepLease } from "./holds/lease.js";
import { noticing } from "./holds/notice.js";
import { holdHandlers } from "./holds/rpc.js";
import { keepSweeping } from "./holds/sweeper.js";
import { createAnswers } from "./idempotency/answers.js";
import { createOnceWith } from "./idempotency/creates.js";
import { keepForgetting } from "./idempotency/upkeep.js";
import { createInference } from "./inference/inference.js";
import { inferenceHandlers } from "./inference/rpc.js";
import { createUpstreams } from "./inference/upstreams.js";
import { readUpstreams } from "./inference/upstreams-file.js";
import { modelHandlers } from "./keys/alias-rpc.js";
import { createAliasBook } from "./keys/aliases.js";
import { createKeyring } from "./keys/authenticate.js";
import { createRateLimiter } from "./keys/rate-limit.js";
import { keyHandlers } from "./keys/rpc.js";
import { createPriceBook } from "./pricing/prices.js";
import { usageHandlers } from "./usage/rpc.js";
import { VERSION } from "./version.js";
import { keepRefusals } from "./webhooks/notices.js";
import { webhookHandlers } from "./webhooks/rpc.js";
import { signingVault } from "./webhooks/signing.js";
import { createTargets } from "./webhooks/targets.js";

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
  const url = await applicationUrl(required(config.databaseUrl, "DATABASE_URL"), (message) =>
    log.warn(message),
  );
  const [pepper] = config.secrets;
  const specs = readUpstreams(config, env);
  const gateway = newId();
  const money = connect(url, { name: "keytoll money", max: MONEY_CONNECTIONS });
  const sql = connect(url, { name: "keytoll", max: OTHER_CONNECTIONS });
  const redis = config.redisUrl === undefined ? undefined : openRedis(config.redisUrl);
  const lease = await keepLease(sql, gateway, log);
  const metrics = createMetrics(sql, VERSION);
  const keyring = createKeyring(sql, config.secrets, config.accountLimits);
  const prices = createPriceBook(sql);
  const aliases = createAliasBook(sql);
  const upstreams = createUpstreams(specs, log);
  metrics.watchUpstreams(upstreams);
  const refusals = keepRefusals(sql, log);
  const holds = noticing(metrics.measured(createHolds(money, { gateway })), refusals.note);
  const temporal = await temporalOf(config, log);
  const spool = createSpool({ dataDir: config.dataDir, log });
  const delivery = createDelivery({ sql, holds, spool, handOver: temporal?.handOver, log });
  metrics.watchDelivery(delivery);
  // What an earlier gateway could not deliver comes before all else
  if (!(await delivery.deliver())) throw new Error("Postgres does not answer");
  const sweeper = keepSweeping(sql, log, delivery.deliver);
  const { adminToken, secrets, production } = config;
  const answers = createAnswers({ sql: money, secrets, log });
  const createOnce = createOnceWith(sql, secrets, log);
  const forgetting = keepForgetting(sql, log);
  const inference = createInference({ holds, delivery, prices, aliases, upstreams, answers, log });
  const limiter = createRateLimiter({ redis, log });
  metrics.watchLimiter(limiter);
  const failures = failuresOf(limiter, config.failedAuthRpm);
  const authenticator = createAuthenticator({ keyring, secrets, adminToken, failures });
  const health = createHealth({ sql, redis, upstreams, lease, delivery });

  const { requireOwner, requireOwnerOrManager, requireChild, requireAdmin } = authenticator;
  const own = [
    service(
      AuthService,
      authHandlers({
        ...{ sql, failures },
        issueToken: authenticator.issueToken,
        takeTurn: (key, limit) => limiter.take(key, limit, "login"),
      }),
    ),
    service(AccountService, accountHandlers({ sql, requireOwner })),
    service(
      KeyService,
      keyHandlers({
        sql,
        pepper: required(pepper, "KEYTOLL_SECRET"),
        createOnce,
        requireOwner,
        requireOwnerOrManager,
      }),
    ),
    service(ModelService, modelHandlers({ sql, requireOwner })),
    service(
      HoldService,
      holdHandlers({
        sql,
        holds,
        prices,
        keyring,
        requireOwnerOrManager,
        explain: (error, call) => toRpcFailure(error, call, log),
      }),
    ),
    service(UsageService, usageHandlers({ sql, requireOwnerOrManager })),
    service(
      WebhookService,
      webhookHandlers({
        sql,
        requireOwner,
        targets: createTargets({ production, allowPrivate: config.webhookAllowPrivate }),
        vault: signingVault(secrets),
        createOnce,
      }),
    ),
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
    async (call) => {
      if (production) await requireAdmin(call);
    },
  );
  const { limitUnit: unit } = config;
  const doors = { inference, limiter, sql, requireChild, log };
  const openAi = createOpenAiDoor(doors, openRouterWords(unit));
  const anthropic = createAnthropicDoor(doors);
  const keysDoor = createOpenRouterDoor({
    inference,
    sql,
    services: own,
    unit,
    callerOf: authenticator.callerOf,
    log,
  });
  const healthDoor = createHealthDoor({ health, metrics, authenticator, production, log });
  const rest = restHandler(
    [...managementRoutes(own), ...usageRoutes(own), ...webhookRoutes(own)],
    log,
  );
  const rpc = connectHandler({ services, log, fallback: rest });

  return {
    services,
    handle(request, response) {
      const path = pathOf(request);
      metrics.watch(response, routeName(path));
      if (healthDoor(request, response, path) || allowOrigin(request, response)) return;
      const inferring = speaksAnthropic(request, path) ? anthropic : openAi;
      const door = managesKeys(path) ? keysDoor : inferring;
      void door(request, response, path).then((handled) => {
        if (!handled) rpc(request, response);
      });
    },
    async close() {
      inference.close();
      limiter.close();
      await Promise.all([sweeper.stop(), forgetting.stop()]);
      await delivery.close();
      await holds.close();
      await refusals.stop();
      await lease.stop();
      await Promise.all([
        keyring.stop(),
        prices.stop(),
        aliases.stop(),
        upstreams.close(),
        temporal?.close(),
      ]);
      redis?.disconnect();
      await Promise.all([money.end({ timeout: 5 }), sql.end({ timeout: 5 })]);
    },
  };
}

/**
 * Undefined where none is configured: a gateway works without, and does not load its client, which
 * takes as much memory as a tenth of all else.
 */
async function temporalOf(
  { temporalAddress: address, temporalNamespace: namespace }: Config,
  log: Log,
) {
  if (address === undefined) return undefined;
  const { openClient } = await import("./temporal/client.js");
  const { createHandover } = await import("./holds/delivery/handover.js");
  const { client, close } = openClient({ address, namespace });
  return { handOver: createHandover(client, log), close };
}

function required(value: string | undefined, name: string): string {
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}

const pathOf = (request: IncomingMessage): string => (request.url ?? "/").split("?", 1)[0] ?? "/";

/** The path with its ids taken out, for metrics: few names, whatever callers make up. */
function routeName(path: string): string {
  const known =
    /^\/(?:api\/(?:v1|auth|account|management|webhooks|admin)|v1|healthz|readyz|metrics|keytoll\.v1\.[A-Za-z]+)/;
  return known.exec(path)?.[0] ?? "other";
}
