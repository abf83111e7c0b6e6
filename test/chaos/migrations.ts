import { spawn } from "node:child_process";
import { once } from "node:events";
import postgres from "postgres";
import { newId } from "../../src/base/ids.js";
import { pause } from "../../src/base/time.js";
import { migrationNames } from "../../src/db/migrate.js";
import { KEYTOLL } from "../../src/dev/processes.js";
import type { Dice } from "./dice.js";
import type { World } from "./system.js";

const LOOK_EVERY = 3;
const ATTEMPTS = 60;
const PAUSE = 200;

/**
 * Migrates a fresh database from two processes at once, kills them both at a random migration, and
 * migrates again, until it is done.
 *
 * @returns processes that were killed; undefined where there is no database to be had
 * @throws Error where it does not come to its end
 */
export async function killMigrations(
  { databaseUrl, sql }: World,
  dice: Dice,
): Promise<number | undefined> {
  const name = `fresh_${newId().replaceAll("-", "")}`;
  const created = await sql.unsafe(`create database ${name}`).catch(() => undefined);
  if (!created) return undefined;
  const url = new URL(databaseUrl);
  url.pathname = `/${name}`;
  const all = await migrationNames();
  const wanted = dice.int(0, all.length - 1);
  const killed = await killAt(url.href, wanted);
  let said = "";
  for (let attempt = 0; (await appliedIn(url.href)) < all.length; attempt++) {
    if (attempt === ATTEMPTS) throw new Error(`${name} is never migrated: ${said}`);
    said = await run(url.href).ended;
    await pause(PAUSE);
  }
  await sql.unsafe(`drop database ${name} with (force)`).catch(() => {});
  return killed;
}

async function killAt(url: string, wanted: number): Promise<number> {
  const runs = [run(url), run(url)];
  let over = false;
  void Promise.race(runs.map((it) => it.ended)).then(() => {
    over = true;
  });
  while (!over && (await appliedIn(url)) < wanted) await pause(LOOK_EVERY);
  const killed = runs.filter((it) => it.child.exitCode === null && it.child.kill("SIGKILL"));
  await Promise.all(runs.map((it) => it.ended));
  return killed.length;
}

/** `keytoll migrate`, and what it complained of when it has ended. */
function run(url: string) {
  const child = spawn(process.execPath, [KEYTOLL, "migrate"], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { PATH: process.env.PATH, HOME: process.env.HOME, DATABASE_URL: url },
  });
  let said = "";
  child.stderr.on("data", (bytes: Buffer) => {
    said += bytes.toString();
  });
  return { child, ended: once(child, "close").then(() => said) };
}

/** Migrations on record; -1 before there is any record, or while nobody can be asked. */
async function appliedIn(url: string): Promise<number> {
  const sql = postgres(url, { max: 1, connect_timeout: 2, onnotice: () => {} });
  try {
    const [row] = await sql<{ n: number }[]>`select count(*)::int as n from schema_migration`;
    return row?.n ?? -1;
  } catch {
    return -1;
  } finally {
    await sql.end({ timeout: 1 });
  }
}
