import { readdir, readFile } from "node:fs/promises";
import { connect, type Sql } from "./sql.js";

const FOLDER = new URL("./migrations/", import.meta.url);
/** Any number: taken while migrating, so that two starts at once do it one after the other. */
const LOCK = 4_711_001;

/**
 * Brings the database to the newest schema. Each migration is one transaction with its entry in
 * `schema_migration`, so that a killed migration leaves either all of it or nothing. Then the
 * application's role is given its privileges on all that there is, as far as the role exists.
 *
 * @returns names of the migrations that were applied now, in order
 */
export async function migrate(databaseUrl: string): Promise<string[]> {
  const sql = connect(databaseUrl, { max: 1, name: "keytoll migrate" });
  try {
    await sql`select pg_advisory_lock(${LOCK})`;
    await sql`
      create table if not exists schema_migration (
        name text primary key, applied_at timestamptz not null default clock_timestamp())`;
    const done = new Set((await sql`select name from schema_migration`).map((row) => row.name));
    const waiting = (await migrationNames()).filter((name) => !done.has(name));
    for (const name of waiting) await apply(sql, name);
    await sql`select grant_to_application()`;
    return waiting;
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** Names of all migrations, oldest first. */
export async function migrationNames(): Promise<string[]> {
  return (await readdir(FOLDER)).filter((name) => name.endsWith(".sql")).sort();
}

async function apply(sql: Sql, name: string): Promise<void> {
  const text = await readFile(new URL(name, FOLDER), "utf8");
  await sql.begin(async (tx) => {
    await tx.unsafe(text);
    await tx`insert into schema_migration (name) values (${name})`;
  });
}
