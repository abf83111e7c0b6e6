import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { createLog } from "../base/log.js";
import { startGateway } from "../server.js";
import type { Command } from "./command.js";
import { untilTold } from "./ending.js";

export const command: Command = {
  summary: "run a gateway: REST, inference, Connect, gRPC-web and gRPC",
  usage: `Usage: keytoll serve

Runs until SIGTERM or Ctrl-C, and lets running requests end then. Several may run at once.
Needs a migrated database; works without Temporal and without Redis.

  DATABASE_URL          Postgres
  TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE   takes finished requests that Postgres does not take
  KEYTOLL_DATA_DIR      keeps them where Temporal is away too (.keytoll); it must survive a restart
  KEYTOLL_SECRET        at least 32 bytes; several, newest first, separated by commas
  KEYTOLL_ADMIN_TOKEN   at least 32 bytes; without it nobody is admin
  REDIS_URL             rate limits of all gateways together; else each counts for itself
  KEYTOLL_ACCOUNT_RPM, KEYTOLL_ACCOUNT_CONCURRENCY   what all keys of an account may send together:
                        requests in any 60 s, requests at once; none unless set, here or per account
  KEYTOLL_FAILED_AUTH_RPM   wrong keys and tokens that an address may send in any 60 s (30; 0: no limit)
  PORT, GRPC_PORT       8080, 8081
  KEYTOLL_WEBHOOK_ALLOW_PRIVATE   private ranges that webhooks may go to: 10.0.0.0/8,fd00::/8
  KEYTOLL_UPSTREAM_URL and _KEY, or KEYTOLL_UPSTREAMS_FILE   where inference goes`,

  async run(args) {
    parseArgs({ args, options: {} });
    const config = readConfig(process.env);
    if (config.production && !config.adminToken) throw new Error("KEYTOLL_ADMIN_TOKEN is not set");
    const told = untilTold();
    const log = createLog(config.logLevel, "gateway");
    const gateway = await startGateway(config, process.env, log);
    log.info({ http: gateway.http, grpc: gateway.grpc }, "gateway is ready");
    process.send?.({ ready: { http: gateway.http, grpc: gateway.grpc } });
    await told;
    await gateway.close();
    return 0;
  },
};
