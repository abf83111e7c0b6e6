import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { aloneFigures } from "./alone.js";
import { startBenchServer } from "./database.js";
import { benchExpiry } from "./expiry.js";
import { benchFlat } from "./flat.js";
import { benchGateway } from "./gateway.js";
import { benchGrpc } from "./grpc.js";
import { baselineFigures, engineFigures, type Figures } from "./holds.js";
import { benchReset } from "./reset.js";
import { benchSettle } from "./settle.js";
import { benchStreams } from "./streams.js";
import { benchWipe } from "./wipe.js";

const USAGE = `Usage: npm run bench -- holds|cycles|alone|gateway|grpc|streams|flat|expiry|wipe|reset|settle
             [--seconds N] [--concurrency C] [--json]

  holds     holds a second through the engine, against a transaction for each request
  cycles    hold and capture with its usage record, against the same
  alone     one hold at a time, against a round trip of select 1
  gateway   paid requests a second through a gateway, against a bare node:http + undici proxy; what
            they take of CPU and memory; and any of [--keys 1e5] keys against any of ten
  streams   [--streams 300] paced streams of 100 tokens a second, all at once: their lateness, memory
  grpc      hold and capture through HoldService, clients in other processes, against cycles and
            against the same over Connect in JSON
  flat      holds and cycles after years of usage records, against empty tables
            [--records 1e6] [--children 1e5]
  expiry    how late expiries are recorded at 20 a second for a minute, and what the sweep costs for
            a due key among 1,000 to [--keys 1e6]
  wipe      how soon a Temporal that lost its database knows [--keys 1e5] with an expiry again
  reset     a day's reset of [--children 1e5] with [--records 1e6], against a thousand child keys
  settle    how soon [--records 1e6] captured while Temporal was away are settled

At 64 concurrent (gateway and grpc: 256) where nothing else is said.
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

async function benchAlone({ seconds }: Load) {
  const server = await startBenchServer();
  try {
    console.log(`one hold at a time, ${seconds} s; ${machine()}, ${server.version}`);
    const figures = await aloneFigures(await server.emptyDatabase(), seconds);
    const { roundTrip, hold, added } = figures;
    console.log(`  select 1   p50 ${roundTrip.p50} ms   p99 ${roundTrip.p99} ms`);
    console.log(`  a hold     p50 ${hold.p50} ms   p99 ${hold.p99} ms`);
    console.log(`  added: ${added} ms`);
    return { bench: "alone", seconds, ...figures, machine: machine() };
  } finally {
    await server.stop();
  }
}

async function benchPaid(load: Load, keys: number, json: boolean): Promise<object> {
  const server = await startBenchServer();
  try {
    return await benchGateway({ ...load, keys, json, emptyDatabase: server.emptyDatabase });
  } finally {
    await server.stop();
  }
}

async function benchPaced(seconds: number, streams: number, json: boolean): Promise<object> {
  const server = await startBenchServer();
  try {
    return await benchStreams({ seconds, streams, json, emptyDatabase: server.emptyDatabase });
  } finally {
    await server.stop();
  }
}

async function benchHoldService(load: Load, json: boolean): Promise<object> {
  const server = await startBenchServer();
  try {
    return await benchGrpc({ ...load, json, emptyDatabase: server.emptyDatabase });
  } finally {
    await server.stop();
  }
}

async function benchJobs(what: "reset" | "settle", records: number, children: number) {
  const server = await startBenchServer();
  try {
    const { emptyDatabase } = server;
    console.log(`${what}: ${machine()}, ${server.version}`);
    if (what === "settle") return await benchSettle({ records, emptyDatabase });
    return await benchReset({ children, records, emptyDatabase });
  } finally {
    await server.stop();
  }
}

async function benchYears(load: Load, records: number, children: number): Promise<object> {
  const server = await startBenchServer();
  try {
    const { emptyDatabase } = server;
    console.log(`${load.concurrency} concurrent, ${machine()}, ${server.version}`);
    return await benchFlat({ ...load, records, children, emptyDatabase });
  } finally {
    await server.stop();
  }
}

async function benchKeys(what: "expiry" | "wipe", seconds: number, keys: number) {
  const server = await startBenchServer();
  try {
    const { emptyDatabase } = server;
    console.log(`${machine()}, ${server.version}`);
    if (what === "wipe") return await benchWipe({ keys, emptyDatabase });
    return await benchExpiry({ seconds, keys, emptyDatabase });
  } finally {
    await server.stop();
  }
}

/** Where nothing else is said. */
const SECONDS: Record<string, number> = { flat: 2, expiry: 60 };
const KEYS: Record<string, number> = { expiry: 1e6, wipe: 1e5 };

function say(name: string, { perSecond, p50, p99 }: Figures): void {
  const rate = perSecond.toLocaleString("en-US").padStart(8);
  console.log(`  ${name.padEnd(20)}${rate}/s   p50 ${p50} ms   p99 ${p99} ms`);
}

interface Sizes {
  records: string;
  children: string;
  keys?: string;
  streams: string;
  json: boolean;
}

/** @returns undefined where there is no such measurement */
async function run(what: string, load: Load, sizes: Sizes): Promise<object | undefined> {
  if (what === "holds" || what === "cycles") return await benchHolds(what, load);
  if (what === "alone") return await benchAlone(load);
  if (what === "gateway") return await benchPaid(load, Number(sizes.keys ?? 1e5), sizes.json);
  if (what === "streams") return await benchPaced(load.seconds, Number(sizes.streams), sizes.json);
  if (what === "grpc") return await benchHoldService(load, sizes.json);
  if (what === "reset" || what === "settle") {
    return await benchJobs(what, Number(sizes.records), Number(sizes.children));
  }
  if (what === "flat") {
    return await benchYears(load, Number(sizes.records), Number(sizes.children));
  }
  if (what === "expiry" || what === "wipe") {
    return await benchKeys(what, load.seconds, Number(sizes.keys ?? KEYS[what]));
  }
  return undefined;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: "string" },
      concurrency: { type: "string" },
      records: { type: "string", default: "1e6" },
      children: { type: "string", default: "1e5" },
      keys: { type: "string" },
      streams: { type: "string", default: "300" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const [what] = positionals;
  const concurrency = Number(
    values.concurrency ?? (what === "gateway" || what === "grpc" ? 256 : 64),
  );
  const seconds = Number(values.seconds ?? SECONDS[what ?? ""] ?? 5);
  const load = { seconds, concurrency };
  const fits = load.seconds >= 1 && load.seconds <= 600 && load.concurrency >= 1;
  if (values.help || !fits || positionals.length !== 1) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  const result = await run(what ?? "", load, values);
  if (result === undefined) {
    console.log(USAGE);
    return 2;
  }
  if (values.json) console.log(JSON.stringify(result));
  return 0;
}

process.exitCode = await main();
