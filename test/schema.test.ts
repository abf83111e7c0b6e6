import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { migrate, migrationNames } from "../src/db/migrate.js";
import { connect, type Sql } from "../src/db/sql.js";
import { emptyDatabase, type TestDatabase } from "./support/database.js";
import { dumpSchema, SCHEMA_FILE, writeSchema } from "./support/schema.js";

let database: TestDatabase;
let sql: Sql;

beforeAll(async () => {
  database = await emptyDatabase();
  await Promise.all([migrate(database.url), migrate(database.url)]);
  sql = connect(database.url, { name: "schema", max: 1 });
});

afterAll(async () => {
  await sql?.end();
  await database?.drop();
});

test("src/db/schema.sql is what the migrations make (npm run schema writes it)", async () => {
  const schema = await dumpSchema(sql);
  if (process.env.npm_lifecycle_event === "schema") writeSchema(schema);
  expect(readFileSync(SCHEMA_FILE, "utf8")).toBe(schema);
});

test("two starts that migrate at once apply each migration once, and a third nothing", async () => {
  const applied = await sql`select name from schema_migration order by name`;
  expect(applied.map((row) => row.name)).toEqual(await migrationNames());
  expect(await migrate(database.url)).toEqual([]);
});

test("journal, usage, limits, prices and audit refuse to be changed or deleted", async () => {
  for (const table of ["transfer", "ended_hold", "settlement_post", "child_limit", "model_price"]) {
    const triggers = await sql`
      select tgenabled from pg_trigger where tgrelid = ${table}::regclass
        and tgname = 'append_only'`;
    expect(triggers, table).toHaveLength(1);
  }
  await sql`insert into audit_event (actor, action, subject) values ('admin', 'test', 'x')`;
  await expect(sql`update audit_event set actor = 'system'`).rejects.toThrow(/append-only/);
  await expect(sql`delete from audit_event`).rejects.toThrow(/append-only/);
});
