import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { startBenchServer } from "./database.js";
import { benchGateway } from "./gateway.js";
import { baselineFigures, engineFigures, type Figures } from "./holds.js";

const USAGE = `Usage: npm run bench -- holds|cycles|gateway [--seconds N] [--concurrency C] [--json]

  holds     holds a second through the engine, against a transaction for each request
  cycles    hold and capture with its usage record, against the same
  gateway   paid requests a second through a gateway, against a bare node:http + undici proxy

At 64 concurrent (gateway: 256 connections) where nothing else is said.
Each starts what it needs, from empty tables,
  and measures its baseline in the same run. --json ends with
one JSON object.`;

interface Load {
  seconds: number;
  concurrency: number;
}

const machine = () => `${cpus().length} cores, Node ${process.versions.node}`;

async function benchHolds(what: "holds" | "cycles", load: Load) {
  const server = await startBenchServer();
  try {
    console.log(`${what} at ${load.concurrency} concurrent, ${load.seconds} s each`);
    console.log(`  ${machine()}, ${server.version}, one hot account, 1,000 child keys`);
    const engine = await engineFigures(await server.emptyDatabase(), what, load);
    say("batched", engine);
    const baseline = await baselineFigures(await server.emptyDatabase(), what, load);
    say("a transaction each", baseline);
    const ratio = Number((engine.perSecond / baseline.perSecond).toFixed(1));
    console.log(`  ratio: ${ratio}x`);
    return { bench: what, ...load, engine, baseline, ratio, machine: machine() };
  } finally {
    await server.stop();
  }
}

async function benchPaid(load: Load, json: boolean): Promise<object> {
  const server = await startBenchServer();
  try {
    return await benchGateway({ ...load, json, databaseUrl: await server.emptyDatabase() });
  } finally {
    await server.stop();
  }
}

function say(name: string, { perSecond, p50, p99 }: Figures): void {
  const rate = perSecond.toLocaleString("en-US").padStart(8);
  console.log(`  ${name.padEnd(20)}${rate}/s   p50 ${p50} ms   p99 ${p99} ms`);
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: "string", default: "5" },
      concurrency: { type: "string" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const [what] = positionals;
  const concurrency = Number(values.concurrency ?? (what === "gateway" ? 256 : 64));
  const load = { seconds: Number(values.seconds), concurrency };
  const fits = load.seconds >= 1 && load.seconds <= 600 && load.concurrency >= 1;
  if (values.help || !fits || positionals.length !== 1) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  let result: object;
  if (what === "holds" || what === "cycles") result = await benchHolds(what, load);
  else if (what === "gateway") result = await benchPaid(load, values.json);
  else {
    console.log(USAGE);
    return 2;
  }
  if (values.json) console.log(JSON.stringify(result));
  return 0;
}

process.exitCode = await main();
