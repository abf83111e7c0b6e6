import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { format } from "node:util";
import type { Sql } from "../../src/db/sql.js";

/**
 * The schema as the migrations leave it, committed, so that a reader sees it whole and a review
 * sees it change.
 */
export const SCHEMA_FILE = fileURLToPath(new URL("../../src/db/schema.sql", import.meta.url));

/**
 * Describes everything in a migrated database but the monthly partitions, which come and go with
 * time.
 */
export async function dumpSchema(sql: Sql): Promise<string> {
  const tables = await sql`
    select c.oid, c.relname as name, c.relkind, c.reloptions,
      pg_get_partkeydef(c.oid) as partition_by,
           case when c.relkind = 'v' then pg_get_viewdef(c.oid) end as view
      from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')
       and not c.relispartition
     order by c.relname`;
  const parts = ["-- Made from the migrations by `npm run schema`. Not to be edited.\n"];
  for (const table of tables) parts.push(await describeTable(sql, table));
  const functions = await sql`
    select pg_get_functiondef(oid) as definition from pg_proc
     where pronamespace = 'public'::regnamespace order by proname, oid::regprocedure::text`;
  return `${[...parts, ...functions.map((row) => row.definition.trimEnd())].join("\n\n")}\n`;
}

async function describeTable(sql: Sql, table: Record<string, unknown>): Promise<string> {
  const oid = table.oid as number;
  if (table.view) return `create view ${table.name} as\n${table.view}`;
  const columns = await sql`
    select format('  %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                  case when a.attnotnull then ' not null' else '' end,
                  case when a.attidentity <> '' then ' generated always as identity'
                       when a.attgenerated <> '' then ' generated always as (' || pg_get_expr(d.adbin, d.adrelid) || ') stored'
                       when d.adbin is not null then ' default ' || pg_get_expr(d.adbin,
                         d.adrelid) else '' end) as line
      from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = ${oid} and a.attnum > 0 and not a.attisdropped order by a.attnum`;
  const constraints = await sql`
    select format('  constraint %s %s', conname, pg_get_constraintdef(oid)) as line
      from pg_constraint
     where conrelid = ${oid} and contype <> 'n' order by conname`;
  const extras = await sql`
    select pg_get_indexdef(indexrelid) as line from pg_index
     where indrelid = ${oid} and not exists (select 1 from pg_constraint k
       where k.conindid = indexrelid)
     union all select pg_get_triggerdef(oid) from pg_trigger where tgrelid = ${oid}
       and not tgisinternal
     order by 1`;
  const body = [...columns, ...constraints].map((row) => row.line).join(",\n");
  const partition = table.partition_by ? ` partition by ${table.partition_by}` : "";
  const options = table.reloptions
    ? format(" with (%s)", (table.reloptions as string[]).join(", "))
    : "";
  const lines = [`create table ${table.name} (\n${body}\n)${partition}${options}`];
  return [...lines, ...extras.map((row) => row.line)].map((line) => `${line};`).join("\n");
}

export const writeSchema = (text: string): void => writeFileSync(SCHEMA_FILE, text);
