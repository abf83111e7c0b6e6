import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { elapsed, pause, SECOND } from "../../src/base/time.js";
import { checkBooks } from "../../src/check/check.js";
import type { Finding } from "../../src/check/invariants.js";
import { KEYTOLL } from "../../src/dev/processes.js";
import { closeConnections } from "./ask.js";
import { type Audit, audit } from "./audit.js";
import { type ClientBook, emptyBook, type UpstreamBook } from "./books.js";
import { createDice, type Dice } from "./dice.js";
import { FAULTS, type Fault, faultBag } from "./faults.js";
import { startLoad } from "./load.js";
import { comeToRest } from "./rest.js";
import { isReady } from "./services.js";
import { firstReference, openShops } from "./shops.js";
import { startWorld, type World } from "./system.js";

export interface Options {
  /** Ends the faults after so many seconds or kills, whatever comes first. */
  seconds: number;
  kills: number;
  seed: number;
  gateways: number;
  /** Names of faults, one after the other; else they are drawn as the seed wants it. */
  script?: readonly string[];
  /** Does not wait for the minute that a lease lives. */
  hurry: boolean;
  say(line: string): void;
}

export interface Result {
  seed: number;
  kills: number;
  /** How often each fault struck. */
  faults: Record<string, number>;
  skipped: string[];
  client: ClientBook;
  upstream: UpstreamBook;
  recoveries: Record<string, number[]>;
  findings: Finding[];
  audit: Audit;
  /** Milliseconds of the faults alone, and of what came after them. */
  struckMs: number;
  settledMs: number;
}

const ENOUGH_UP = 30 * SECOND;

/** Starts the system, loads it, breaks it, and compares all books when it has come to rest. */
export async function runChaos(options: Options): Promise<Result> {
  const { say, seed } = options;
  const dice = createDice(seed);
  const world = await startWorld({ gateways: options.gateways, dice: dice.fork(), say });
  const recoveries = recoveriesOf(world);
  try {
    const client = emptyBook();
    const [first] = world.gateways;
    if (!first) throw new Error("no gateway");
    const shops = await openShops(first.http, (paid, account) =>
      client.toppedUp.push({
        ...{ account, amount: BigInt(paid), acknowledged: true },
        reference: firstReference(client.toppedUp.length),
      }),
    );
    say(`seed ${seed}: the system is up in ${world.dataDir}`);
    const load = startLoad({ gateways: world.gateways, shops, book: client, dice: dice.fork() });
    const begun = elapsed();
    const struck = await strike(world, options, dice.fork());
    const struckMs = elapsed() - begun;
    say("all is up again; the load drains");
    await world.ready();
    await load.drain();
    await comeToRest(world, options);
    const settledMs = elapsed() - begun - struckMs;
    const findings = await checkBooks(world.sql);
    if (!options.hurry) say(await keytollCheck(world.databaseUrl));
    return {
      ...{ seed, ...struck, client, upstream: world.upstream.book, recoveries, findings },
      ...{ audit: await audit(world.sql, client, world.upstream.book), struckMs, settledMs },
      skipped: world.disk ? [] : ["disk full"],
    };
  } finally {
    await closeConnections();
    await world.stop();
  }
}

/** What an operator sees who proves the books from the command line. */
async function keytollCheck(databaseUrl: string): Promise<string> {
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, DATABASE_URL: databaseUrl };
  const check = spawn(process.execPath, [KEYTOLL, "check", "--full"], {
    stdio: ["ignore", "pipe", "inherit"],
    env,
  });
  return `$ keytoll check --full\n${await text(check.stdout)}`;
}

function recoveriesOf({ gateways, postgres, temporal, worker }: World) {
  const all = [...gateways, postgres, temporal, worker];
  return Object.fromEntries(all.map(({ name, recoveries }) => [name, recoveries]));
}

async function strike(world: World, options: Options, dice: Dice) {
  const { seconds, say, script } = options;
  const draw = script ? inOrder(script) : faultBag(FAULTS, dice);
  const faults: Record<string, number> = {};
  const end = elapsed() + seconds * SECOND;
  let kills = 0;
  while (kills < options.kills && elapsed() < end) {
    const fault = draw();
    if (!fault) break;
    const killed = await fault.strike(world, dice);
    if (killed === undefined) continue;
    kills += killed;
    faults[fault.name] = (faults[fault.name] ?? 0) + 1;
    say(`${String(kills).padStart(5)} kills  ${fault.name}`);
    // Now and then the next one comes before this one is over
    if (dice.chance(0.25)) continue;
    await enoughUp(world);
    await pause(dice.int(50, 600));
  }
  await world.ready();
  return { kills, faults };
}

function inOrder(script: readonly string[]): () => Fault | undefined {
  const waiting = script.map((name) => FAULTS.find((it) => it.name === name));
  return () => waiting.shift();
}

/** Waits until money can be taken somewhere. */
async function enoughUp({ postgres, gateways }: World): Promise<void> {
  const start = elapsed();
  await postgres.up();
  const serves = async () =>
    (await Promise.all(gateways.map((it) => isReady(it.http).catch(() => false)))).some(Boolean);
  while (elapsed() - start < ENOUGH_UP && !(await serves())) await pause(50);
}
