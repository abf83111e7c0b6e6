import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../base/config.js";
import { readOrNothing } from "./processes.js";
import { readRunFile } from "./run-file.js";

/**
 * The database that a command works on: the configured one, else that of the system running on this
 * data folder.
 *
 * @throws Error in words when there is neither
 */
export function findDatabase(config: Config): string {
  const url = config.databaseUrl ?? readRunFile(config.dataDir)?.database_url;
  if (url) return url;
  throw new Error(
    `no database: set DATABASE_URL, or start the system (nothing runs on ${config.dataDir})`,
  );
}

/**
 * Where a command finds the gateway and its admin token.
 *
 * @throws Error in words when neither is configured nor running
 */
export function findGateway(config: Config): { http: string; adminToken: string } {
  const running = readRunFile(config.dataDir);
  const http = running?.http ?? `http://127.0.0.1:${config.port}`;
  const adminToken =
    config.adminToken ?? (running && readFileSync(running.admin_token_file, "utf8").trim());
  if (adminToken) return { http, adminToken };
  throw new Error(
    `no admin token: set KEYTOLL_ADMIN_TOKEN, or start the system (nothing runs on ${config.dataDir})`,
  );
}

/**
 * Where a command finds Temporal: the configured one, else that of the system running on this data
 * folder.
 */
export function findTemporalPlace(config: Config): { address: string; namespace: string } {
  const port = readOrNothing(join(config.dataDir, "temporal-port"))?.trim() ?? "7233";
  const address = config.temporalAddress ?? `127.0.0.1:${port}`;
  return { address, namespace: config.temporalNamespace };
}
