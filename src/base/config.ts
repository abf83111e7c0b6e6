import { isIP } from "node:net";
import { resolve } from "node:path";
import { GNK, type Unit, unitByRate } from "./unit.js";

/** Everything the environment decides. Ports: 0 means a free one. */
export interface Config {
  production: boolean;
  port: number;
  grpcPort: number;
  temporalUiPort: number;
  databaseUrl: string | undefined;
  redisUrl: string | undefined;
  temporalAddress: string | undefined;
  temporalNamespace: string;
  dataDir: string;
  /** Peppers, newest first; each at least 32 bytes. Empty where none was given. */
  secrets: string[];
  adminToken: string | undefined;
  upstreamUrl: string | undefined;
  upstreamKey: string | undefined;
  upstreamsFile: string | undefined;
  /** Private ranges, as CIDR, that webhooks may go to. */
  webhookAllowPrivate: string[];
  /** Of limits and amounts at the doors for OpenRouter's clients. */
  limitUnit: Unit;
  /** What all keys of an account may send together, unless it is set for the account itself. */
  accountLimits: { rateLimitRpm: number | null; concurrency: number | null };
  /** Failed sign-ins that an address may have in any 60 s; null: not counted. */
  failedAuthRpm: number | null;
  logLevel: string;
}

type Env = Record<string, string | undefined>;

const KNOWN = [
  "KEYTOLL_DATA_DIR",
  "KEYTOLL_SECRET",
  "KEYTOLL_ADMIN_TOKEN",
  "KEYTOLL_UPSTREAM_URL",
  "KEYTOLL_UPSTREAM_KEY",
  "KEYTOLL_UPSTREAMS_FILE",
  "KEYTOLL_WEBHOOK_ALLOW_PRIVATE",
  "KEYTOLL_LIMIT_UNIT",
  "KEYTOLL_USD_PER_GNK",
  "KEYTOLL_ACCOUNT_RPM",
  "KEYTOLL_ACCOUNT_CONCURRENCY",
  "KEYTOLL_FAILED_AUTH_RPM",
  "KEYTOLL_LOG_LEVEL",
] as const;
const LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"];
const MIN_SECRET_BYTES = 32;
const MAX_LIMIT = 1_000_000;
const FAILED_AUTH_RPM = 30;

/**
 * Reads the configuration: a pure function of the environment.
 *
 * @throws Error in one sentence that names the variable and what it should be
 */
export function readConfig(env: Env): Config {
  refuseUnknown(env);
  const secrets = (text(env, "KEYTOLL_SECRET")?.split(",") ?? []).map((secret) => secret.trim());
  if (secrets.some((secret) => Buffer.byteLength(secret) < MIN_SECRET_BYTES)) {
    throw new Error(`KEYTOLL_SECRET: each secret needs at least ${MIN_SECRET_BYTES} bytes`);
  }
  const logLevel = text(env, "KEYTOLL_LOG_LEVEL") ?? "info";
  if (!LEVELS.includes(logLevel)) {
    throw new Error(`KEYTOLL_LOG_LEVEL: "${logLevel}" is none of ${LEVELS.join(", ")}`);
  }
  if (text(env, "KEYTOLL_UPSTREAM_URL") && text(env, "KEYTOLL_UPSTREAMS_FILE")) {
    throw new Error("KEYTOLL_UPSTREAM_URL and KEYTOLL_UPSTREAMS_FILE: set one of them, not both");
  }
  return {
    production: env.NODE_ENV === "production",
    port: port(env, "PORT", 8080),
    grpcPort: port(env, "GRPC_PORT", 8081),
    temporalUiPort: port(env, "TEMPORAL_UI_PORT", 8233),
    databaseUrl: url(env, "DATABASE_URL", ["postgres:", "postgresql:"]),
    redisUrl: url(env, "REDIS_URL", ["redis:", "rediss:"]),
    temporalAddress: text(env, "TEMPORAL_ADDRESS"),
    temporalNamespace: text(env, "TEMPORAL_NAMESPACE") ?? "default",
    dataDir: resolve(text(env, "KEYTOLL_DATA_DIR") ?? ".keytoll"),
    secrets,
    adminToken: adminToken(env),
    upstreamUrl: url(env, "KEYTOLL_UPSTREAM_URL", ["http:", "https:"]),
    upstreamKey: text(env, "KEYTOLL_UPSTREAM_KEY"),
    upstreamsFile: text(env, "KEYTOLL_UPSTREAMS_FILE"),
    webhookAllowPrivate: ranges(env, "KEYTOLL_WEBHOOK_ALLOW_PRIVATE"),
    limitUnit: limitUnit(env),
    accountLimits: {
      rateLimitRpm: limit(env, "KEYTOLL_ACCOUNT_RPM", 0),
      concurrency: limit(env, "KEYTOLL_ACCOUNT_CONCURRENCY", 0),
    },
    failedAuthRpm: limit(env, "KEYTOLL_FAILED_AUTH_RPM", FAILED_AUTH_RPM),
    logLevel,
  };
}

function text(env: Env, name: string): string | undefined {
  const value = env[name]?.trim();
  return value === "" ? undefined : value;
}

function port(env: Env, name: string, fallback: number): number {
  const value = text(env, name);
  if (value === undefined) return fallback;
  if (!/^[0-9]{1,5}$/.test(value) || Number(value) > 65_535) {
    throw new Error(`${name}: "${value}" is not a port (0 to 65535; 0 means a free one)`);
  }
  return Number(value);
}

/** How many; null for 0, which means no limit. */
function limit(env: Env, name: string, fallback: number): number | null {
  const value = text(env, name) ?? String(fallback);
  if (!/^[0-9]{1,7}$/.test(value) || Number(value) > MAX_LIMIT) {
    throw new Error(`${name}: "${value}" is not a number from 0 to ${MAX_LIMIT} (0: no limit)`);
  }
  return Number(value) || null;
}

function url(env: Env, name: string, protocols: string[]): string | undefined {
  const value = text(env, name);
  if (value === undefined) return undefined;
  const wanted = protocols.map((protocol) => `${protocol}//`).join(" or ");
  if (!URL.canParse(value) || !protocols.includes(new URL(value).protocol)) {
    throw new Error(`${name}: not a URL that starts with ${wanted}`);
  }
  return value;
}

function ranges(env: Env, name: string): string[] {
  const list = (text(env, name)?.split(",") ?? []).map((range) => range.trim());
  for (const range of list) {
    const [address = "", bits = "", ...more] = range.split("/");
    const longest = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1;
    if (!/^[0-9]{1,3}$/.test(bits) || Number(bits) > longest || more.length > 0) {
      throw new Error(`${name}: "${range}" is not a range like 10.0.0.0/8 or fd00::/8`);
    }
  }
  return list;
}

function limitUnit(env: Env): Unit {
  const name = text(env, "KEYTOLL_LIMIT_UNIT") ?? "gnk";
  const rate = text(env, "KEYTOLL_USD_PER_GNK");
  if (name === "gnk") {
    if (rate === undefined) return GNK;
    throw new Error("KEYTOLL_USD_PER_GNK: only with KEYTOLL_LIMIT_UNIT=usd");
  }
  if (name !== "usd") throw new Error(`KEYTOLL_LIMIT_UNIT: "${name}" is none of gnk, usd`);
  const unit = rate === undefined ? undefined : unitByRate(rate);
  if (unit) return unit;
  throw new Error(`KEYTOLL_USD_PER_GNK: "${rate ?? ""}" is not a price like 0.0125`);
}

function adminToken(env: Env): string | undefined {
  const value = text(env, "KEYTOLL_ADMIN_TOKEN");
  if (value !== undefined && Buffer.byteLength(value) < MIN_SECRET_BYTES) {
    throw new Error(`KEYTOLL_ADMIN_TOKEN: needs at least ${MIN_SECRET_BYTES} bytes`);
  }
  return value;
}

function refuseUnknown(env: Env): void {
  for (const name of Object.keys(env)) {
    if (!name.startsWith("KEYTOLL_") || (KNOWN as readonly string[]).includes(name)) continue;
    const nearest = [...KNOWN].sort((a, b) => distance(name, a) - distance(name, b))[0];
    throw new Error(`${name}: no such variable; did you mean ${nearest}?`);
  }
}

/** Levenshtein's edit distance, for "did you mean". */
function distance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(swap, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
