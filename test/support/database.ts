import { randomBytes } from "node:crypto";
import postgres from "postgres";
import { inject } from "vitest";
import { APPLICATION } from "../../src/db/role.js";

export interface TestDatabase {
  /** As the owner of everything in it: for setting up, and for tampering. */
  url: string;
  /** The same, acting as serve and work do. */
  applicationUrl: string;
  /** Cuts whoever is still connected. */
  drop(): Promise<void>;
}

/** A migrated, empty database of its own: a copy of the template, made in about 50 ms. */
export const freshDatabase = (): Promise<TestDatabase> =>
  create(`template ${inject("templateDatabase")} strategy file_copy`);

/** A database without any table, for tests of the migrations themselves. */
export const emptyDatabase = (): Promise<TestDatabase> => create("");

async function create(how: string): Promise<TestDatabase> {
  const name = `test_${randomBytes(8).toString("hex")}`;
  await onServer((sql) => sql.unsafe(`create database ${name} ${how}`));
  return {
    url: urlOf(name),
    applicationUrl: `${urlOf(name)}?role=${APPLICATION}`,
    drop: () => onServer((sql) => sql.unsafe(`drop database if exists ${name} with (force)`)),
  };
}

function urlOf(database: string): string {
  const url = new URL(inject("postgresUrl"));
  url.pathname = `/${database}`;
  return url.href;
}

async function onServer(act: (sql: postgres.Sql) => Promise<unknown>): Promise<void> {
  const sql = postgres(inject("postgresUrl"), { max: 1, onnotice: () => {} });
  try {
    await act(sql);
  } finally {
    await sql.end();
  }
}
