import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pause } from "../../src/base/time.js";
import { migrate } from "../../src/db/migrate.js";
import { connect, type Sql } from "../../src/db/sql.js";
import type { Dice } from "./dice.js";
import { type Disk, mountDisk } from "./disk.js";
import { openHouse } from "./house.js";
import type { Line } from "./proxy.js";
import { type Gateway, isReady, startOurs, startServices } from "./services.js";
import type { Supervised } from "./supervised.js";
import { type LabelledUpstream, startUpstream } from "./upstream.js";

/** The real system, all of it ours to break. */
export interface World {
  postgres: Supervised;
  temporal: Supervised;
  worker: Supervised;
  gateways: readonly Gateway[];
  workerLine: Line;
  upstream: LabelledUpstream;
  /** Of the database, past every line. */
  databaseUrl: string;
  temporalAddress: string;
  sql: Sql;
  /** Under Postgres; undefined where the machine lets us mount none. */
  disk: Disk | undefined;
  /** Under the first gateway's data folder: its spool and its log. */
  spoolDisk: Disk | undefined;
  dataDir: string;
  /** Everything that serves can be used. */
  ready(): Promise<void>;
  stop(): Promise<void>;
}

interface Options {
  gateways: number;
  dice: Dice;
  say(line: string): void;
}

const DISK_MEGABYTES = 3_000;
const SPOOL_MEGABYTES = 32;

/** Starts Postgres, Temporal, gateways, a worker and an upstream, on free ports and new data. */
export async function startWorld({ gateways: count, dice, say }: Options): Promise<World> {
  const dataDir = mkdtempSync(join(tmpdir(), "keytoll-chaos-"));
  const house = openHouse();
  const disk = tryToMount(join(dataDir, "disk"), DISK_MEGABYTES, say);
  const spoolDisk = tryToMount(join(dataDir, "gateway-1"), SPOOL_MEGABYTES, say);
  const stop = async () => {
    await house.close();
    disk?.unmount();
    spoolDisk?.unmount();
    rmSync(dataDir, { recursive: true, force: true });
  };
  try {
    const services = await startServices(house, dataDir);
    const { databaseUrl } = services;
    const sql = connect(databaseUrl, { name: "chaos", max: 3 });
    house.onClose(() => sql.end({ timeout: 1 }));
    await prepare(sql, databaseUrl);
    const upstream = await startUpstream();
    house.onClose(() => upstream.close());
    const ours = await startOurs(house, {
      ...{ dataDir, dice, databaseUrl, gateways: count },
      ...{ temporalAddress: services.temporalAddress, upstreamUrl: upstream.url },
    });
    const all = [services.postgres, services.temporal, ours.worker, ...ours.gateways];
    const serve = async () => {
      const answers = ours.gateways.map((it) => isReady(it.http).catch(() => false));
      return (await Promise.all(answers)).every(Boolean);
    };
    return {
      ...{ ...services, ...ours, upstream, sql, disk, spoolDisk, dataDir, stop },
      async ready() {
        await Promise.all(all.map((it) => it.up()));
        while (!(await serve())) await pause(50);
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function prepare(sql: Sql, databaseUrl: string): Promise<void> {
  // Little room for old log: a full disk must bite soon
  await sql.unsafe("alter system set max_wal_size = '160MB'");
  await sql`select pg_reload_conf()`;
  await migrate(databaseUrl);
}

function tryToMount(folder: string, megabytes: number, say: Options["say"]): Disk | undefined {
  mkdirSync(folder, { recursive: true });
  try {
    return mountDisk(folder, megabytes);
  } catch (error) {
    say(`SKIPPED: disk full, since no file system can be mounted here: ${error}`);
    return undefined;
  }
}

/** As a load balancer chooses: one that is up, and now and then one that is believed to be. */
export function aGateway(gateways: readonly Gateway[], dice: Dice): Gateway {
  const up = gateways.filter((it) => it.isUp());
  const chosen = dice.pick(up.length === 0 || dice.chance(0.05) ? gateways : up);
  if (!chosen) throw new Error("there are no gateways");
  return chosen;
}
