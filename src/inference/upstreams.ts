import { readFileSync } from "node:fs";
import type { Config } from "../base/config.js";
import type { Dialect } from "./kind.js";
import {
  createUpstream,
  type Exchange,
  type Timeouts,
  type Upstream,
  type UpstreamSpec,
} from "./upstream.js";

/** The way of one model's requests to whoever serves it. */
export interface Route {
  /**
   * Asks. Resolves with an answer's head, whatever its status.
   *
   * @param path    below the upstream's base URL
   * @param bodyFor writes the body for the id that the model has there
   * @throws as `Upstream.post` does
   */
  post(path: string, bodyFor: (model: string) => string, signal: AbortSignal): Promise<Exchange>;
}

/** All upstreams of a gateway. */
export interface Upstreams {
  /** The way to who serves a model in these words. Undefined where nobody does. */
  route(model: string, dialect: Dialect): Route | undefined;
  /** Whether anybody serves a model, in whichever words. */
  serves(model: string): boolean;
  close(): Promise<void>;
}

type UpstreamConfig = Pick<Config, "upstreamUrl" | "upstreamKey" | "upstreamsFile">;
type Env = Record<string, string | undefined>;

const FILE = "KEYTOLL_UPSTREAMS_FILE";
const FIELDS = ["name", "url", "key_env", "models"];

/**
 * Reads which upstreams there are: the one of KEYTOLL_UPSTREAM_URL, or those of the file, a JSON
 * list of `{"name", "url", "key_env", "models"?}`. Keys stand in the environment only, under the
 * name in `key_env`.
 *
 * @returns none where none is configured
 * @throws Error in one sentence that names the place and what it should be
 */
export function readUpstreams(config: UpstreamConfig, env: Env): UpstreamSpec[] {
  if (config.upstreamUrl !== undefined) {
    const url = versioned(config.upstreamUrl);
    return [{ name: "default", url, key: config.upstreamKey, models: null }];
  }
  if (config.upstreamsFile === undefined) return [];
  const list = readList(config.upstreamsFile);
  const specs = list.map((entry, i) => readEntry(entry, `${FILE}: [${i}]`, env));
  refuseRepeated(
    specs.map((spec) => spec.name),
    "name",
  );
  refuseRepeated(
    specs.flatMap((spec) => spec.models ?? []),
    "model",
  );
  if (specs.filter((spec) => spec.models === null).length > 1) {
    throw new Error(`${FILE}: only one upstream may go without "models"`);
  }
  return specs;
}

/** Opens all upstreams. A model goes to the one that names it, else to the one that names none. */
export function createUpstreams(specs: readonly UpstreamSpec[], timeouts?: Timeouts): Upstreams {
  const byModel = new Map<string, Upstream>();
  let fallback: Upstream | undefined;
  const all = specs.map((spec) => {
    const upstream = createUpstream(spec, timeouts);
    for (const model of spec.models ?? []) byModel.set(model, upstream);
    if (spec.models === null) fallback = upstream;
    return upstream;
  });
  const find = (model: string) => byModel.get(model) ?? fallback;
  return {
    route(model, dialect) {
      const upstream = dialect === "openai" ? find(model) : undefined;
      if (upstream === undefined) return undefined;
      return { post: (path, bodyFor, signal) => upstream.post(path, bodyFor(model), signal) };
    },
    serves: (model) => find(model) !== undefined,
    async close() {
      await Promise.all(all.map((upstream) => upstream.close()));
    },
  };
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
  if (typeof entry !== "object" || entry === null || Array.isArray(entry)) {
    throw new Error(`${where}: must be an object`);
  }
  const fields = entry as Record<string, unknown>;
  const unknown = Object.keys(fields).find((field) => !FIELDS.includes(field));
  if (unknown !== undefined) {
    throw new Error(`${where}.${unknown}: no such field; there are ${FIELDS.join(", ")}`);
  }
  const name = nonEmpty(fields.name, `${where}.name`);
  const url = nonEmpty(fields.url, `${where}.url`);
  if (!URL.canParse(url) || !["http:", "https:"].includes(new URL(url).protocol)) {
    throw new Error(`${where}.url: not a URL that starts with http:// or https://`);
  }
  const keyEnv = nonEmpty(fields.key_env, `${where}.key_env`);
  const key = env[keyEnv]?.trim();
  if (!key) throw new Error(`${where}.key_env: the variable ${keyEnv} is not set`);
  return { name, url: versioned(url), key, models: readModels(fields.models, `${where}.models`) };
}

function readModels(models: unknown, where: string): string[] | null {
  if (models === undefined) return null;
  if (!Array.isArray(models) || models.length === 0) {
    throw new Error(`${where}: must be a list of at least one model id`);
  }
  return models.map((model, i) => nonEmpty(model, `${where}[${i}]`));
}

function nonEmpty(value: unknown, where: string): string {
  if (typeof value !== "string" || value.trim() === "") {
    throw new Error(`${where}: must be a text that is not empty`);
  }
  return value.trim();
}

function refuseRepeated(values: readonly string[], what: string): void {
  const repeated = values.find((value, i) => values.indexOf(value) !== i);
  if (repeated !== undefined) throw new Error(`${FILE}: the ${what} "${repeated}" stands twice`);
}

/** The base URL with its version at the end: /v1 where there is none. */
function versioned(url: string): string {
  const bare = url.replace(/[/?#]+$/, "");
  return /\/v[0-9]+[a-z0-9]*$/.test(bare) ? bare : `${bare}/v1`;
}
