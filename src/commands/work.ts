import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { createLog } from "../base/log.js";
import { applicationUrl } from "../db/role.js";
import { connect } from "../db/sql.js";
import { startWorker } from "../worker.js";
import type { Command } from "./command.js";
import { untilTold } from "./ending.js";

const CONNECTIONS = 10;

export const command: Command = {
  summary: "run the jobs: settlement, expiries, limit resets, hold recovery, webhooks",
  usage: `usage: keytoll work

Runs until SIGTERM or Ctrl-C, and finishes what is under way then. Several may run at once.
While Temporal is away it waits; keys and limits work without it.

DATABASE_URL        Postgres, migrated
TEMPORAL_ADDRESS    host:port (127.0.0.1:7233)
TEMPORAL_NAMESPACE  (default)
KEYTOLL_DATA_DIR    where the bundled workflows are kept (.keytoll)
KEYTOLL_SECRET      as the gateways have it: without it webhooks wait
KEYTOLL_WEBHOOK_ALLOW_PRIVATE   private ranges that webhooks may go to: 10.0.0.0/8,fd00::/8`,

  async run(args) {
    parseArgs({ args, options: {} });
    const config = readConfig(process.env);
    if (!config.databaseUrl) {
      console.error("keytoll work: DATABASE_URL is not set");
      return 1;
    }
    const stopped = untilTold();
    const log = createLog(config.logLevel, "worker");
    const url = await applicationUrl(config.databaseUrl, (message) => log.warn(message));
    const sql = connect(url, { max: CONNECTIONS, name: "keytoll worker" });
    const worker = await startWorker({ config, sql, log });
    process.send?.({ ready: {} });

    await stopped;
    await worker.stop();
    await sql.end({ timeout: 5 });
    return 0;
  },
};
