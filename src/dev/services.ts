import type { Config } from "../base/config.js";
import type { Kind } from "./endings.js";
import { findTemporal } from "./find-temporal.js";
import { isFree } from "./ports.js";
import { startPostgres } from "./postgres.js";
import type { Process, Service } from "./processes.js";
import { type Say, watched } from "./progress.js";
import { startRedis } from "./redis.js";
import { startTemporal } from "./temporal.js";

/**
 * What a start needs to know, and whom to tell of every process and of every service that should go
 * on running.
 */
export interface Context {
  config: Config;
  say: Say;
  watch(kind: Kind): (it: Process) => void;
  keep<S extends Service>(name: string, first: S, startAgain: () => Promise<S>): S;
}

interface TemporalAddress {
  address: string;
  uiUrl: string | null;
}

/**
 * @returns the URL of the database: the given one, or that of the embedded server, which is started
 */
export async function providePostgres({ config, say, watch, keep }: Context): Promise<string> {
  if (config.databaseUrl) return config.databaseUrl;
  const start = (port: number) =>
    startPostgres({ dataDir: config.dataDir, port, say, watch: watch("postgres") });
  const first = await watched(say, "Postgres", start(0));
  return keep("Postgres", first, () => start(portOf(first.url))).url;
}

/**
 * @returns where Temporal is: the given server, or a development server, which is found and started
 */
export async function provideTemporal(context: Context): Promise<TemporalAddress> {
  const { config, say, watch, keep } = context;
  if (config.temporalAddress) return { address: config.temporalAddress, uiUrl: null };
  const binary = await findTemporal(say);
  const start = (port: number, uiPort: number) =>
    startTemporal({
      binary,
      dataDir: config.dataDir,
      keep: true,
      port,
      uiPort,
      namespace: config.temporalNamespace,
      say,
      watch: watch("temporal"),
    });
  const first = await watched(say, "Temporal", start(0, config.temporalUiPort));
  const ports = [portOf(`http://${first.address}`), portOf(first.uiUrl)] as const;
  return keep("Temporal", first, () => start(...ports));
}

/**
 * @returns the URL of Redis: the given one, or that of an own server; undefined where there is none
 */
export async function provideRedis({ config, say, watch, keep }: Context) {
  if (config.redisUrl) return config.redisUrl;
  const start = (port: number) =>
    startRedis({ dataDir: config.dataDir, port, say, watch: watch("redis") });
  const first = await watched(say, "Redis", start(0));
  return first && keep("Redis", first, async () => (await start(portOf(first.url))) ?? first).url;
}

/** One that is started again must be where those who use it look for it. */
const portOf = (url: string): number => Number(new URL(url).port);

/**
 * Makes sure that nobody else has the ports that are fixed, before anything is started.
 *
 * @throws Error that names each port that is taken, and the variable that changes it
 */
export async function refuseTakenPorts(config: Config): Promise<void> {
  const wanted = [
    { name: "PORT", port: config.port },
    { name: "GRPC_PORT", port: config.grpcPort },
    ...(config.temporalAddress ? [] : [{ name: "TEMPORAL_UI_PORT", port: config.temporalUiPort }]),
  ].filter(({ port }) => port !== 0);
  const [twin] = wanted.filter(({ port }, at) => wanted.findIndex((it) => it.port === port) < at);
  if (twin) throw new Error(`${twin.name}: ${twin.port} is the port of another variable already`);

  const free = await Promise.all(wanted.map(({ port }) => isFree(port)));
  const taken = wanted.filter((_, at) => !free[at]);
  const [first] = taken;
  if (!first) return;
  const problems = taken.map(({ name, port }) => `port ${port} (${name}) is taken`).join("; ");
  throw new Error(
    `${problems}. Set the variable to another port, or to 0 for a free one: ${first.name}=0 npm start`,
  );
}
