import { readConfig } from "./base/config.js";
import type { Command } from "./commands/command.js";

// Days and months are UTC everywhere; set before anything asks the clock
process.env.TZ = "UTC";

/** Loaded one by one, so that a verb costs only what it needs. */
const VERBS = {
  dev: async () => (await import("./commands/dev.js")).command,
  serve: async () => (await import("./commands/serve.js")).command,
  work: async () => (await import("./commands/work.js")).command,
  migrate: async () => (await import("./commands/migrate.js")).command,
  check: async () => (await import("./commands/check.js")).command,
  archive: async () => (await import("./commands/archive.js")).command,
  settle: async () => (await import("./commands/settle.js")).command,
  outbox: async () => (await import("./commands/outbox.js")).command,
  reconcile: async () => (await import("./commands/reconcile.js")).command,
  credit: async () => (await import("./commands/credit.js")).command,
  "demo-upstream": async () => (await import("./commands/demo-upstream.js")).command,
} satisfies Record<string, () => Promise<Command>>;

type Verb = keyof typeof VERBS;

const DONE = 0;
const FAILED = 1;
const WRONG_USAGE = 2;
const HELP = ["--help", "-h", "help"];

async function main([verb, ...args]: string[]): Promise<number> {
  if (verb === undefined || HELP.includes(verb)) {
    console.log(await overview());
    return verb === undefined ? WRONG_USAGE : DONE;
  }
  if (!isVerb(verb)) {
    console.error(`keytoll: there is no verb "${verb}"${nearest(verb)}; --help lists them`);
    return WRONG_USAGE;
  }
  const command = await VERBS[verb]();
  if (args.some((arg) => arg === "--help" || arg === "-h")) {
    console.log(`${command.summary}\n\n${command.usage}`);
    return DONE;
  }
  return await attempt(verb, command, args);
}

async function attempt(verb: Verb, command: Command, args: string[]): Promise<number> {
  try {
    readConfig(process.env);
  } catch (error) {
    console.error(`keytoll: ${inWords(error)}`);
    return WRONG_USAGE;
  }
  try {
    return await command.run(args);
  } catch (error) {
    console.error(`keytoll ${verb}: ${inWords(error)}`);
    return isWrongUsage(error) ? WRONG_USAGE : FAILED;
  }
}

async function overview(): Promise<string> {
  const lines = Object.entries(VERBS).map(async ([verb, load]) => {
    return `  ${verb.padEnd(15)}${(await load()).summary}`;
  });
  const verbs = (await Promise.all(lines)).join("\n");
  return `keytoll <verb> [--help]\n\n${verbs}\n\nExit codes: 0 done, 1 failed, 2 wrong usage`;
}

const isVerb = (text: string): text is Verb => Object.hasOwn(VERBS, text);

/** The verb that shares the most letters at the start or as a whole, as a question. */
function nearest(text: string): string {
  const shared = (verb: string) => [...verb].filter((letter) => text.includes(letter)).length;
  const likeness = (verb: string) =>
    (verb[0] === text[0] ? 1 : 0) + shared(verb) / Math.max(verb.length, text.length);
  const [best] = Object.keys(VERBS).sort((a, b) => likeness(b) - likeness(a));
  return best !== undefined && likeness(best) >= 1 ? `; did you mean "${best}"?` : "";
}

/** `parseArgs` tells an unknown flag or a missing value by the code of its error. */
function isWrongUsage(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return code.startsWith("ERR_PARSE_ARGS");
}

function inWords(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.message || error.name;
}

process.exit(await main(process.argv.slice(2)));
