import { pause } from "../../src/base/time.js";
import type { Dice } from "./dice.js";
import type { Trap } from "./proxy.js";
import { childrenOf, type Gateway } from "./services.js";
import { type Supervised, signal } from "./supervised.js";
import type { World } from "./system.js";
import type { Point } from "./upstream.js";

/** @returns processes that were killed; undefined where it could not be done now */
export type Strike = (world: World, dice: Dice) => Promise<number | undefined>;

/** How long a trap waits for someone to walk into it. */
const TRAP_MS = 4_000;

/** Sets a trap and waits until it springs or nobody came. */
export async function caught(set: (spring: (() => void) | undefined) => void): Promise<boolean> {
  let sprung = false;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, TRAP_MS);
    set(() => {
      sprung = true;
      clearTimeout(timer);
      resolve();
    });
  });
  set(undefined);
  return sprung;
}

/** One of those that can be used. */
export const oneUp = <It extends Supervised>(all: readonly It[], dice: Dice): It | undefined =>
  dice.pick(all.filter((it) => it.isUp()));

/** Kills whatever `what` chooses. */
export function kill(what: (world: World, dice: Dice) => Supervised | undefined): Strike {
  return async (world, dice) => (what(world, dice)?.kill() ? 1 : undefined);
}

/** Kills the gateway whose request gets to a point at the upstream. */
export function killAt(point: Point): Strike {
  return async ({ upstream, gateways }, dice) => {
    const late = dice.chance(0.5) ? 0 : dice.int(1, 4);
    let victim: Gateway | undefined;
    const came = await caught((spring) =>
      upstream.set(
        point,
        spring &&
          ((name) => {
            victim = gateways.find((it) => it.name === name);
            if (late === 0) victim?.kill();
            spring();
          }),
      ),
    );
    if (!came) return undefined;
    if (late > 0) await pause(late);
    if (late > 0) victim?.kill();
    return 1;
  };
}

/** Springs a trap on a gateway's line to Postgres, and does something at that instant. */
export function onLine(
  trap: (dice: Dice) => Omit<Trap, "spring">,
  act: (world: World, gateway: Gateway) => void = () => {},
  kills = 0,
): Strike {
  return async (world, dice) => {
    const gateway = oneUp(world.gateways, dice);
    if (!gateway) return undefined;
    const set = trap(dice);
    const came = await caught((spring) =>
      gateway.line.set(
        spring && {
          ...set,
          spring: () => {
            act(world, gateway);
            spring();
          },
        },
      ),
    );
    return came ? kills : undefined;
  };
}

/** Stops a process for a while: it has all its connections, and answers nobody. */
export function freeze(what: (world: World, dice: Dice) => Supervised | undefined): Strike {
  return async (world, dice) => {
    const it = what(world, dice);
    if (!it?.isUp()) return undefined;
    it.freeze();
    await pause(dice.int(300, 3_500));
    it.thaw();
    return 0;
  };
}

/** A server process of Postgres: its end makes the server start over. */
export async function killBackend(
  { postgres, sql }: World,
  dice: Dice,
): Promise<number | undefined> {
  const rows = await sql<{ pid: number }[]>`
    select pid from pg_stat_activity where application_name like 'keytoll%'`.catch(() => []);
  const pid = dice.pick(rows.map((row) => row.pid));
  if (pid === undefined || !childrenOf(postgres.pid()).includes(pid)) return undefined;
  return signal(pid, "SIGKILL") ? 1 : undefined;
}

/** Ends the sessions of gateways and workers, as an operator would. */
export async function terminateBackends({ sql }: World): Promise<number | undefined> {
  const ended = await sql`
    select pg_terminate_backend(pid) from pg_stat_activity
     where application_name like 'keytoll%'`.catch(() => []);
  return ended.length > 0 ? 0 : undefined;
}

/** Until the disk is free again, nothing can be written, nor Postgres started. */
export async function fillDisk({ disk, sql }: World, dice: Dice): Promise<number | undefined> {
  if (!disk) return undefined;
  disk.fill();
  // What was laid out in advance would let the log go on for a while
  await sql`select pg_switch_wal()`.catch(() => {});
  await pause(dice.int(1_000, 4_000));
  disk.free();
  return 0;
}

/** Both places that take the end of a hold are away: what a gateway has is on its own disk. */
function away({ postgres, temporal }: World, ms: number): number {
  return [postgres, temporal].filter((it) => it.keepDown(ms)).length;
}

/** A gateway dies while Postgres and Temporal are away: its disk has what it was trusted with. */
export async function killAway(world: World, dice: Dice): Promise<number | undefined> {
  const killed = away(world, dice.int(5_000, 9_000));
  await pause(dice.int(2_000, 5_000));
  return killed + (oneUp(world.gateways, dice)?.kill() ? 1 : 0);
}

/** Nothing takes the end of a hold: not Postgres, not Temporal, and for one gateway not its disk. */
export async function fillSpool(world: World, dice: Dice): Promise<number | undefined> {
  if (!world.spoolDisk) return undefined;
  world.spoolDisk.fill();
  const killed = away(world, dice.int(4_000, 7_000));
  await pause(dice.int(4_000, 8_000));
  world.spoolDisk.free();
  return killed;
}

/** A network that is slow for a while. */
export async function delayLine({ gateways }: World, dice: Dice): Promise<number> {
  const gateway = dice.pick(gateways);
  gateway?.line.delay(dice.int(5, 250));
  await pause(dice.int(1_000, 3_000));
  gateway?.line.delay(0);
  return 0;
}

/** A network that loses everything for a while, and tells nobody. */
export async function swallowLine(world: World, dice: Dice): Promise<number> {
  const line = dice.pick([...world.gateways.map((it) => it.line), world.workerLine]);
  line?.blackHole();
  await pause(dice.int(500, 5_000));
  line?.clear(dice.chance(0.5) ? "deliver" : "lose");
  return 0;
}

/** Cuts connections, idle ones too. */
export async function dropLines(world: World, dice: Dice): Promise<number> {
  const lines = [...world.gateways.map((it) => it.line), world.workerLine];
  for (const line of lines) if (dice.chance(0.6)) line.drop();
  return 0;
}
