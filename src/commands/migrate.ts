import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { migrate } from "../db/migrate.js";
import { APPLICATION, asApplication, HOW_TO_GRANT } from "../db/role.js";
import { findDatabase } from "../dev/running.js";
import type { Command } from "./command.js";

export const command: Command = {
  summary: "bring the database to the newest schema",
  usage: `Usage: keytoll migrate

Applies the migrations that are missing, each in one transaction, and gives the application's role
(${APPLICATION}) what it needs. May run beside a running system; several at once wait for each other.

  DATABASE_URL   Postgres, by the login that owns the tables; without it, the database of the
                 system that runs on this machine`,

  async run(args) {
    parseArgs({ args, options: {} });
    const url = findDatabase(readConfig(process.env));
    const applied = await migrate(url);
    for (const name of applied) console.log(`applied ${name}`);
    console.log(applied.length === 0 ? "nothing to do: the schema is the newest" : "done");
    if (!(await asApplication(url))) {
      console.log(`
This login may not make or take the role ${APPLICATION}, so that nothing but triggers keeps the
journal from being changed. Run this once as a superuser, then migrate again:`);
      for (const line of HOW_TO_GRANT) console.log(`  ${line}`);
    }
    return 0;
  },
};
