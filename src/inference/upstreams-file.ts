import { readFileSync } from "node:fs";
import type { Config } from "../base/config.js";
import { MINUTE, SECOND } from "../base/time.js";
import type { Dialect } from "./kind.js";
import { type Accepts, STRICT } from "./strict.js";
import type { UpstreamSpec } from "./upstream.js";

type UpstreamConfig = Pick<Config, "upstreamUrl" | "upstreamKey" | "upstreamsFile">;
type Env = Record<string, string | undefined>;
type Fields = Record<string, unknown>;

const FILE = "KEYTOLL_UPSTREAMS_FILE";
const FIELDS = [
  ...["name", "url", "key_env", "models", "dialect", "weight", "priority", "max_concurrent"],
  ...["first_byte_timeout_seconds", "idle_timeout_seconds", "strict", "drop_parameters"],
];
const MODEL_FIELDS = ["id", "upstream_id"];
const DIALECTS: readonly Dialect[] = ["openai", "anthropic"];
const MOST = 1_000_000;
const LONGEST_TIMEOUT = 3_600;
/** Without these there is no request left. */
const NEEDED = ["model", "messages", "input", "max_tokens"];

/** What holds where the file says nothing. */
const DEFAULTS = {
  dialect: "openai",
  weight: 1,
  priority: 0,
  maxConcurrent: Number.POSITIVE_INFINITY,
  timeouts: { headers: 5 * MINUTE, idle: 2 * MINUTE },
  accepts: undefined,
} as const satisfies Partial<UpstreamSpec>;

/**
 * Reads which upstreams there are: the one of KEYTOLL_UPSTREAM_URL, or those of the file, a JSON
 * list of objects with `name`, `url` and `key_env`, and as far as wanted:
 * - `models`: ids, or `{"id", "upstream_id"}` where the upstream calls one differently; without it
 *   the upstream serves every model that no other one names
 * - `dialect`: "openai" or "anthropic"
 * - `priority`: the lowest is asked first, others where none of those can be; 0 where not set
 * - `weight`: share of the requests among upstreams of one priority; 1 where not set
 * - `max_concurrent`: requests under way there, from each gateway
 * - `first_byte_timeout_seconds`, `idle_timeout_seconds`: 300 and 120 where not set
 * - `strict`: it refuses parameters that it does not know; only those of OpenAI's own API are sent
 * - `drop_parameters`: further ones that it would refuse
 *
 * Keys stand in the environment only, under the name in `key_env`.
 *
 * @returns none where none is configured
 * @throws Error in one sentence that names the place and what it should be
 */
export function readUpstreams(config: UpstreamConfig, env: Env): UpstreamSpec[] {
  if (config.upstreamUrl !== undefined) {
    const url = versioned(config.upstreamUrl);
    return [{ ...DEFAULTS, name: "default", url, key: config.upstreamKey, models: null }];
  }
  if (config.upstreamsFile === undefined) return [];
  const list = readList(config.upstreamsFile);
  const specs = list.map((entry, i) => readEntry(entry, `${FILE}: [${i}]`, env));
  const repeated = repeatedIn(specs.map((spec) => spec.name));
  if (repeated !== undefined) throw new Error(`${FILE}: the name "${repeated}" stands twice`);
  return specs;
}

function readList(path: string): unknown[] {
  let list: unknown;
  try {
    list = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    const why = error instanceof SyntaxError ? "is not valid JSON" : "cannot be read";
    throw new Error(`${FILE}: ${path} ${why}`);
  }
  if (!Array.isArray(list) || list.length === 0) {
    throw new Error(`${FILE}: ${path} must be a list of at least one upstream`);
  }
  return list;
}

function readEntry(entry: unknown, where: string, env: Env): UpstreamSpec {
  const fields = readFields(entry, where, FIELDS);
  const url = nonEmpty(fields.url, `${where}.url`);
  if (!URL.canParse(url) || !["http:", "https:"].includes(new URL(url).protocol)) {
    throw new Error(`${where}.url: not a URL that starts with http:// or https://`);
  }
  const keyEnv = nonEmpty(fields.key_env, `${where}.key_env`);
  const key = env[keyEnv]?.trim();
  if (!key) throw new Error(`${where}.key_env: the variable ${keyEnv} is not set`);
  const number = (field: string, least: number, most = MOST) =>
    wholeNumber(fields[field], `${where}.${field}`, least, most);
  const headers = number("first_byte_timeout_seconds", 1, LONGEST_TIMEOUT);
  const idle = number("idle_timeout_seconds", 1, LONGEST_TIMEOUT);
  const dialect = readDialect(fields.dialect, `${where}.dialect`);
  return {
    name: nonEmpty(fields.name, `${where}.name`),
    url: versioned(url),
    key,
    dialect,
    models: readModels(fields.models, `${where}.models`),
    weight: number("weight", 1) ?? DEFAULTS.weight,
    priority: number("priority", 0) ?? DEFAULTS.priority,
    maxConcurrent: number("max_concurrent", 1) ?? DEFAULTS.maxConcurrent,
    timeouts: {
      headers: headers === undefined ? DEFAULTS.timeouts.headers : headers * SECOND,
      idle: idle === undefined ? DEFAULTS.timeouts.idle : idle * SECOND,
    },
    accepts: readAccepts(fields, dialect, where),
  };
}

function readFields(value: unknown, where: string, known: readonly string[]): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error(`${where}: must be an object`);
  }
  const unknown = Object.keys(value).find((field) => !known.includes(field));
  if (unknown !== undefined) {
    throw new Error(`${where}.${unknown}: no such field; there are ${known.join(", ")}`);
  }
  return value as Fields;
}

function readModels(value: unknown, where: string): ReadonlyMap<string, string> | null {
  if (value === undefined) return null;
  const list = listOf(value, where, "model");
  const models = list.map((entry, i): [string, string] => {
    if (typeof entry === "string") return same(nonEmpty(entry, `${where}[${i}]`));
    const fields = readFields(entry, `${where}[${i}]`, MODEL_FIELDS);
    const id = nonEmpty(fields.id, `${where}[${i}].id`);
    if (fields.upstream_id === undefined) return same(id);
    return [id, nonEmpty(fields.upstream_id, `${where}[${i}].upstream_id`)];
  });
  const repeated = repeatedIn(models.map(([id]) => id));
  if (repeated !== undefined) throw new Error(`${where}: the model "${repeated}" stands twice`);
  return new Map(models);
}

const same = (id: string): [string, string] => [id, id];

function readDialect(value: unknown, where: string): Dialect {
  if (value === undefined) return DEFAULTS.dialect;
  const dialect = DIALECTS.find((known) => known === value);
  if (dialect === undefined) throw new Error(`${where}: must be "openai" or "anthropic"`);
  return dialect;
}

function readAccepts(fields: Fields, dialect: Dialect, where: string): Accepts | undefined {
  const { strict = false, drop_parameters: list = [] } = fields;
  if (typeof strict !== "boolean") throw new Error(`${where}.strict: must be true or false`);
  if (strict && dialect !== "openai") {
    throw new Error(`${where}.strict: only an upstream of the openai dialect can be strict`);
  }
  if (fields.drop_parameters === undefined) return strict ? (name) => STRICT.has(name) : undefined;
  const dropped = listOf(list, `${where}.drop_parameters`, "parameter").map((name, i) => {
    const parameter = nonEmpty(name, `${where}.drop_parameters[${i}]`);
    if (!NEEDED.includes(parameter)) return parameter;
    throw new Error(`${where}.drop_parameters[${i}]: no request goes without ${parameter}`);
  });
  const drop = new Set(dropped);
  return (name) => !drop.has(name) && (!strict || STRICT.has(name));
}

function listOf(value: unknown, where: string, what: string): unknown[] {
  if (Array.isArray(value) && value.length > 0) return value;
  throw new Error(`${where}: must be a list of at least one ${what}`);
}

function nonEmpty(value: unknown, where: string): string {
  if (typeof value !== "string" || value.trim() === "") {
    throw new Error(`${where}: must be a text that is not empty`);
  }
  return value.trim();
}

function wholeNumber(
  value: unknown,
  where: string,
  least: number,
  most: number,
): number | undefined {
  if (value === undefined) return undefined;
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) {
    return value as number;
  }
  throw new Error(`${where}: must be a whole number from ${least} to ${most}`);
}

const repeatedIn = (values: readonly string[]): string | undefined =>
  values.find((value, i) => values.indexOf(value) !== i);

/** The base URL with its version at the end: /v1 where there is none. */
function versioned(url: string): string {
  const bare = url.replace(/[/?#]+$/, "");
  return /\/v[0-9]+[a-z0-9]*$/.test(bare) ? bare : `${bare}/v1`;
}
