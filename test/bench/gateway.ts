import { cpus } from "node:os";
import type { Load, LoadFigures } from "./load.js";
import { MODEL, openPaidWorld, type PaidWorld } from "./paid-world.js";
import { messageOf } from "./processes.js";

export interface GatewayBench {
  /** Makes a migrated database without any rows. */
  emptyDatabase: () => Promise<string>;
  seconds: number;
  concurrency: number;
  /** How many keys are in use at once, against ten. */
  keys: number;
  /** True: the figures are only returned, not told. */
  json: boolean;
}

const KEYS = 100;
const FEW = 10;
const STEADY_RATE = 200;
const STEADY_CONNECTIONS = 16;
const ROUNDS = 4;
const PATH = "/v1/chat/completions";
const BODY = JSON.stringify({
  model: MODEL,
  messages: [{ role: "user", content: "A question of some length, as people ask. ".repeat(20) }],
  max_tokens: 256,
});

/** What paid requests took of the machine while they ran flat out. */
interface Cost {
  requests: number;
  gateway: number;
  postgres: number;
  memory: number;
}

/**
 * Measures the whole paid path against a bare proxy in the same run: an upstream that costs next to
 * nothing, node:http in front of undici, and the real gateway with real holds, each a process of
 * its own, under one load generator. Then many keys in use against few.
 */
export async function benchGateway(bench: GatewayBench) {
  const { seconds, concurrency, keys, json } = bench;
  const world = await openPaidWorld(await bench.emptyDatabase(), KEYS);
  let result: Awaited<ReturnType<typeof againstBare>>;
  try {
    result = await againstBare(world, { seconds, concurrency });
  } finally {
    await world.close();
  }
  const many = await openPaidWorld(await bench.emptyDatabase(), keys);
  try {
    const all = { ...result, keys: await manyKeys(many, { seconds, concurrency }) };
    if (!json) report(all);
    return all;
  } finally {
    await many.close();
  }
}

type Extent = { seconds: number; concurrency: number };

async function againstBare(world: PaidWorld, { seconds, concurrency }: Extent) {
  const load = { path: PATH, keys: world.keys, body: BODY, seconds };
  const flatOut = (url: string, idempotent = false) =>
    generate(world, { ...load, url, concurrency, idempotent });
  const steadily = (url: string) =>
    generate(world, { ...load, url, concurrency: STEADY_CONNECTIONS, rate: STEADY_RATE });
  const cost: Cost = { requests: 0, gateway: 0, postgres: 0, memory: 0 };
  // In turns, so that a machine that is busy with other things for a while harms both alike
  const full: Runs = { upstream: [await flatOut(world.upstream)], bare: [], paid: [] };
  const once: LoadFigures[] = [];
  const steady: Runs = { upstream: [], bare: [], paid: [] };
  for (let round = 0; round < ROUNDS; round++) {
    full.bare.push(await flatOut(world.bare));
    full.paid.push(await costed(world, cost, () => flatOut(world.gateway)));
    once.push(await flatOut(world.gateway, true));
    steady.upstream.push(await steadily(world.upstream));
    steady.bare.push(await steadily(world.bare));
    steady.paid.push(await steadily(world.gateway));
  }
  const figures = summary(full, steady, cost, { seconds, concurrency });
  const idempotent = best(once, (run) => -run.perSecond);
  const ratio = Number((idempotent.perSecond / figures.paid.perSecond).toFixed(3));
  return { ...figures, idempotent, idempotent_of_paid: ratio };
}

async function costed(world: PaidWorld, cost: Cost, run: () => Promise<LoadFigures>) {
  const before = world.cpu();
  const figures = await run();
  const after = world.cpu();
  cost.requests += figures.total;
  cost.gateway += after.gateway - before.gateway;
  cost.postgres += after.postgres - before.postgres;
  cost.memory = Math.max(cost.memory, world.memory());
  return figures;
}

/** Each request with any of all keys, against each with any of ten, in turns. */
async function manyKeys(world: PaidWorld, extent: Extent) {
  const load = { ...extent, url: world.gateway, path: PATH, body: BODY, anyKey: true };
  const [few, all]: [LoadFigures[], LoadFigures[]] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    few.push(await generate(world, { ...load, keys: world.keys.slice(0, FEW) }));
    all.push(await generate(world, { ...load, keys: world.keys }));
  }
  const [one, other] = [few, all].map((runs) => best(runs, (run) => -run.perSecond));
  const ratio = Number(((other?.perSecond ?? 0) / (one?.perSecond ?? 1)).toFixed(3));
  return { few: FEW, many: world.keys.length, few_paid: one, many_paid: other, ratio };
}

type Runs = Record<"upstream" | "bare" | "paid", LoadFigures[]>;
type Summary = Awaited<ReturnType<typeof againstBare>> & {
  keys: Awaited<ReturnType<typeof manyKeys>>;
};

function summary(full: Runs, steady: Runs, cost: Cost, load: Extent) {
  const bare = best(full.bare, (run) => -run.perSecond);
  const paid = best(full.paid, (run) => -run.perSecond);
  const [direct, bareSteady, paidSteady] = [steady.upstream, steady.bare, steady.paid].map((runs) =>
    best(runs, (run) => run.p50),
  );
  const added = (it: LoadFigures | undefined, at: "p50" | "p99") =>
    Number(((it?.[at] ?? 0) - (direct?.[at] ?? 0)).toFixed(3));
  const perThousand = (seconds: number) => Number(((seconds * 1_000) / cost.requests).toFixed(3));
  return {
    bench: "gateway",
    cores: cpus().length,
    ...load,
    upstream: best(full.upstream, (run) => -run.perSecond),
    bare,
    paid,
    paid_of_bare: Number((paid.perSecond / bare.perSecond).toFixed(3)),
    core_seconds_per_1000: {
      gateway: perThousand(cost.gateway),
      postgres: perThousand(cost.postgres),
      together: perThousand(cost.gateway + cost.postgres),
    },
    gateway_memory_mb: Math.round(cost.memory / 2 ** 20),
    added_ms_at_200_rps: {
      bare: { p50: added(bareSteady, "p50"), p99: added(bareSteady, "p99") },
      paid: { p50: added(paidSteady, "p50"), p99: added(paidSteady, "p99") },
    },
  };
}

/** The least disturbed of several runs. */
function best(runs: LoadFigures[], badness: (run: LoadFigures) => number): LoadFigures {
  const [first] = [...runs].sort((a, b) => badness(a) - badness(b));
  if (!first) throw new Error("no run");
  return first;
}

function report(result: Summary): void {
  const line = (name: string, figures: LoadFigures | undefined) =>
    console.log(
      `${name.padEnd(44)}${String(figures?.perSecond).padStart(8)} rps   p50 ${figures?.p50} ms   p99 ${figures?.p99} ms` +
        (figures && figures.failed > 0 ? `   ${figures.failed} FAILED` : ""),
    );
  console.log(`gateway, ${result.concurrency} connections, ${result.cores} cores shared by all`);
  line("upstream alone", result.upstream);
  line("bare proxy (node:http + undici)", result.bare);
  line("gateway, each request held and captured", result.paid);
  console.log(`paid / bare: ${result.paid_of_bare}`);
  line("the same, each with an Idempotency-Key", result.idempotent);
  console.log(`with a key / without: ${result.idempotent_of_paid}`);
  const { gateway, postgres, together } = result.core_seconds_per_1000;
  console.log(
    `core-seconds per 1,000 paid requests: ${together} (gateway ${gateway}, Postgres ${postgres})`,
  );
  console.log(`gateway's memory under full load: ${result.gateway_memory_mb} MB`);
  const { bare, paid } = result.added_ms_at_200_rps;
  console.log(`added at ${STEADY_RATE} rps: bare p50 ${bare.p50} ms, p99 ${bare.p99} ms`);
  console.log(`added at ${STEADY_RATE} rps: paid p50 ${paid.p50} ms, p99 ${paid.p99} ms`);
  const { few, many, few_paid, many_paid, ratio } = result.keys;
  line(`any of ${few} keys`, few_paid);
  line(`any of ${many.toLocaleString("en-US")} keys`, many_paid);
  console.log(`many / few: ${ratio}`);
}

async function generate(world: PaidWorld, load: Load): Promise<LoadFigures> {
  const child = await world.client("./load.ts");
  child.send(load);
  return (await messageOf<{ figures: LoadFigures }>(child)).figures;
}
