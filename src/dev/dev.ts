import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../base/config.js";
import { migrate } from "../db/migrate.js";
import { banner } from "./banner.js";
import { type ChildOptions, startChild } from "./children.js";
import { endAll, type Kind, killAll } from "./endings.js";
import { keepRunning } from "./keep-running.js";
import { type Say, watched } from "./progress.js";
import { type Ready, type Roster, takeDataDir, writeRunFile } from "./run-file.js";
import { findSecrets, type Secrets } from "./secrets.js";
import { seedDemo } from "./seed.js";
import {
  type Context,
  providePostgres,
  provideRedis,
  provideTemporal,
  refuseTakenPorts,
} from "./services.js";

interface Options {
  config: Config;
  /** Handed on to our own processes, completed with what was found. */
  env: NodeJS.ProcessEnv;
  say: Say;
  /** The first abort stops in order, the second at once. */
  stopping: AbortSignal;
  stoppingNow: AbortSignal;
}

/**
 * Runs everything on this machine until it is told to stop: services, migrations, gateway, worker,
 * and a demo upstream where none is configured.
 *
 * @throws Error in words when something cannot be started; whatever was started is stopped then
 */
export async function runEverything(options: Options): Promise<void> {
  const { config, say, stopping, stoppingNow } = options;
  const roster = await takeDataDir(config.dataDir, say);
  const context = contextFor(options, roster);
  try {
    await refuseTakenPorts(config);
    const ready = await Promise.race([start(options, context), aborted(stopping)]);
    if (ready) {
      writeRunFile(config.dataDir, ready);
      say(banner(ready, config.dataDir));
      await aborted(stopping);
    }
  } finally {
    context.stop();
    const charges = roster.close();
    await Promise.race([endAll(charges), aborted(stoppingNow).then(() => killAll(charges))]);
    roster.finish();
  }
}

async function start(options: Options, context: Context): Promise<Ready> {
  const { config, say } = options;
  mkdirSync(join(config.dataDir, "logs"), { recursive: true });
  const secrets = findSecrets(config);
  const [database, temporal, redis, upstream] = await Promise.all([
    prepareDatabase(config, secrets, context),
    provideTemporal(context),
    provideRedis(context),
    provideUpstream(options, context),
  ]);
  const env = {
    ...options.env,
    TZ: "UTC",
    DATABASE_URL: database.url,
    TEMPORAL_ADDRESS: temporal.address,
    KEYTOLL_DATA_DIR: config.dataDir,
    KEYTOLL_SECRET: secrets.secrets.join(","),
    KEYTOLL_ADMIN_TOKEN: secrets.adminToken,
    ...(redis ? { REDIS_URL: redis } : {}),
    ...(upstream ? { KEYTOLL_UPSTREAM_URL: upstream } : {}),
  };
  const [gateway] = await Promise.all([
    runChild<Gateway>(context, { verb: "serve", kind: "gateway", env }, samePorts),
    runChild(context, { verb: "work", kind: "worker", env }),
  ]);
  say("");
  return {
    http: gateway.http,
    grpc: gateway.grpc,
    temporal_ui: temporal.uiUrl,
    database_url: database.url,
    admin_token_file: secrets.adminTokenFile,
    demo_owner_token_file: database.ownerTokenFile,
  };
}

interface Gateway {
  http: string;
  grpc: string;
}

/** A gateway that is started again is where it was, also where its ports were any free ones. */
function samePorts({ http, grpc }: Gateway, { env }: ChildSpec): Partial<ChildSpec> {
  const ports = { PORT: new URL(http).port, GRPC_PORT: new URL(`http://${grpc}`).port };
  return { env: { ...env, ...ports } };
}

async function prepareDatabase(config: Config, { secrets }: Secrets, context: Context) {
  const { say } = context;
  const url = await providePostgres(context);
  const applied = await watched(say, "migrations", migrate(url));
  if (applied.length > 0) say(`Postgres: ${applied.length} migrations applied`);
  if (config.production) return { url, ownerTokenFile: null };
  const seeding = seedDemo({ databaseUrl: url, dataDir: config.dataDir, secrets });
  return { url, ...(await watched(say, "demo data", seeding)) };
}

/** @returns the URL of our demo upstream; undefined where one is configured */
async function provideUpstream(
  { config, env }: Options,
  context: Context,
): Promise<string | undefined> {
  if (config.upstreamUrl || config.upstreamsFile) return undefined;
  const child = { verb: "demo-upstream", kind: "upstream", env } as const;
  const { url } = await runChild<{ url: string }>(context, child, (ready) => ({
    args: ["--port", new URL(ready.url).port],
  }));
  return url;
}

type ChildSpec = Pick<ChildOptions, "verb" | "kind" | "args" | "env">;

async function runChild<R>(
  context: Context,
  spec: ChildSpec,
  again: (ready: R, spec: ChildSpec) => Partial<ChildSpec> = () => ({}),
): Promise<R> {
  const { config, say, watch, keep } = context;
  const { dataDir } = config;
  const child = (it: ChildSpec) => startChild<R>({ ...it, dataDir, say, watch: watch(it.kind) });
  const first = await watched(say, spec.verb, child(spec));
  keep(spec.verb, first, () => child({ ...spec, ...again(first.ready, spec) }));
  return first.ready;
}

function contextFor({ config, say, stopping }: Options, roster: Roster) {
  const ending = new AbortController();
  const context: Context = {
    config,
    say,
    watch: (kind: Kind) => (it) => roster.add({ process: it, kind }),
    keep: (name, first, startAgain) => {
      const signal = AbortSignal.any([stopping, ending.signal]);
      void keepRunning({ name, first, startAgain, say, stopping: signal });
      return first;
    },
  };
  return { ...context, stop: () => ending.abort() };
}

function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(undefined);
    signal.addEventListener("abort", () => resolve(undefined), { once: true });
  });
}
