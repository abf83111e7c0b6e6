import { parseArgs } from "node:util";
import { now } from "../../src/base/time.js";
import { inLines, summarize } from "./report.js";
import { runChaos } from "./run.js";

const USAGE = `Usage: npm run chaos -- [--seconds N] [--kills N] [--seed S] [--json]

Starts the whole system on free ports and a folder of its own, puts load on it, and kills, freezes,
cuts and fills up what it runs on, at random. Then every book must agree to the ngonka.

  --kills N    processes to kill (200)
  --seconds N  ends the faults after so long, whatever was killed (a minute and 10 s a kill)
  --seed S     chooses again what an earlier run chose
  --json       the last line is one JSON object

Exit code 1 on any loss.`;

const MAX = 100_000;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seconds: { type: "string" },
      kills: { type: "string", default: "200" },
      seed: { type: "string", default: String(now() % 1_000_000_007) },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const kills = Number(values.kills);
  const seconds = Number(values.seconds ?? 60 + 10 * kills);
  const seed = Number(values.seed);
  const fits = [kills, seconds, seed].every(Number.isSafeInteger) && kills >= 0 && kills <= MAX;
  if (values.help || !fits) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  process.env.TZ = "UTC";
  // Through the handlers of `exit`, which unmount what was mounted; a guardian ends the processes
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => process.exit(1));
  const say = (line: string) => console.log(line);
  const summary = summarize(
    await runChaos({ seconds, kills, seed, gateways: 3, hurry: false, say }),
  );
  for (const line of inLines(summary)) console.log(line);
  if (values.json) console.log(JSON.stringify(summary));
  return summary.ok ? 0 : 1;
}

process.exitCode = await main();
