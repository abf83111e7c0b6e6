import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../base/config.js";
import { readOrNothing } from "./processes.js";

export interface Secrets {
  /** Peppers, newest first. */
  secrets: string[];
  adminToken: string;
  /** Where the admin token can be read by whoever started us. */
  adminTokenFile: string;
}

const SECRET_BYTES = 32;

/**
 * The secrets of the configuration; in development those that are not given are made up once and
 * kept in the data folder, readable by its owner only.
 *
 * @throws Error in production where one is not given
 */
export function findSecrets(config: Config): Secrets {
  const missing = [
    ...(config.secrets.length === 0 ? ["KEYTOLL_SECRET"] : []),
    ...(config.adminToken === undefined ? ["KEYTOLL_ADMIN_TOKEN"] : []),
  ];
  if (config.production && missing.length > 0) {
    throw new Error(`${missing.join(" and ")}: required in production (NODE_ENV=production)`);
  }
  const adminTokenFile = join(config.dataDir, "admin-token");
  const adminToken = config.adminToken ?? keptIn(adminTokenFile);
  if (config.adminToken !== undefined) writePrivate(adminTokenFile, config.adminToken);
  return {
    secrets: config.secrets.length > 0 ? config.secrets : [keptIn(join(config.dataDir, "secret"))],
    adminToken,
    adminTokenFile,
  };
}

function keptIn(file: string): string {
  const known = readOrNothing(file)?.trim();
  if (known) return known;
  const made = randomBytes(SECRET_BYTES).toString("base64url");
  writePrivate(file, made);
  return made;
}

/** Writes a file that only its owner can read. */
export function writePrivate(file: string, content: string): void {
  writeFileSync(file, `${content}\n`, { mode: 0o600 });
}
