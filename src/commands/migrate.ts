import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { migrate } from "../db/migrate.js";
import { findDatabase } from "../dev/running.js";
import type { Command } from "./command.js";

export const command: Command = {
  summary: "bring the database to the newest schema",
  usage: `Usage: keytoll migrate

Applies the migrations that are missing, each in one transaction. May run beside a running system;
several at once wait for each other.

  DATABASE_URL   Postgres; without it, the database of the system that runs on this machine`,

  async run(args) {
    parseArgs({ args, options: {} });
    const applied = await migrate(findDatabase(readConfig(process.env)));
    for (const name of applied) console.log(`applied ${name}`);
    console.log(applied.length === 0 ? "nothing to do: the schema is the newest" : "done");
    return 0;
  },
};
