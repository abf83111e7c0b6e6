import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpus } from "node:os";
import { creditAccount, register } from "../../src/accounts/accounts.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createChildKey } from "../../src/keys/child-keys.js";
import { createManagementKey } from "../../src/keys/management-keys.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import type { Load, LoadFigures } from "./load.js";
import { messageOf, startProcess, stop } from "./processes.js";

export interface GatewayBench {
  /** A migrated database without any rows. */
  databaseUrl: string;
  seconds: number;
  concurrency: number;
  /** True: the figures are only returned, not told. */
  json: boolean;
}

const MODEL = "bench/fast";
const KEYS = 100;
const STEADY_RATE = 200;
const STEADY_CONNECTIONS = 16;
const ROUNDS = 2;
const PATH = "/v1/chat/completions";
const BODY = JSON.stringify({
  model: MODEL,
  messages: [{ role: "user", content: "A question of some length, as people ask. ".repeat(20) }],
  max_tokens: 256,
});

/**
 * Measures the whole paid path against a bare proxy in the same run: an upstream that costs next to
 * nothing, node:http in front of undici, and the real gateway with real holds, each a process of
 * its own, under one load generator.
 */
export async function benchGateway({ databaseUrl, seconds, concurrency, json }: GatewayBench) {
  const started: ChildProcess[] = [];
  const start = async (file: string, args: string[] = [], env = process.env) => {
    const child = startProcess(file, args, env);
    started.push(child);
    return await readyOf(child);
  };
  try {
    const upstream = await start("./upstream.ts");
    const bare = await start("./bare-proxy.ts", [upstream]);
    const secret = randomBytes(32).toString("hex");
    const keys = await seed(databaseUrl, secret);
    const gateway = await start("../../src/main.ts", ["serve"], {
      ...process.env,
      DATABASE_URL: databaseUrl,
      KEYTOLL_SECRET: secret,
      KEYTOLL_UPSTREAM_URL: upstream,
      KEYTOLL_LOG_LEVEL: "warn",
      PORT: "0",
      GRPC_PORT: "0",
    });
    const load = { path: PATH, keys, body: BODY, seconds };
    const flatOut = (url: string) => generate({ ...load, url, concurrency });
    const steadily = (url: string) =>
      generate({ ...load, url, concurrency: STEADY_CONNECTIONS, rate: STEADY_RATE });
    // In turns, so that a machine that is busy with other things for a while harms both alike
    const full: Runs = { upstream: [await flatOut(upstream)], bare: [], paid: [] };
    const steady: Runs = { upstream: [], bare: [], paid: [] };
    for (let round = 0; round < ROUNDS; round++) {
      full.bare.push(await flatOut(bare));
      full.paid.push(await flatOut(gateway));
      steady.upstream.push(await steadily(upstream));
      steady.bare.push(await steadily(bare));
      steady.paid.push(await steadily(gateway));
    }
    const result = summary(full, steady, { seconds, concurrency });
    if (!json) report(result);
    return result;
  } finally {
    await Promise.all(started.map(stop));
  }
}

type Runs = Record<"upstream" | "bare" | "paid", LoadFigures[]>;
type Summary = ReturnType<typeof summary>;

function summary(full: Runs, steady: Runs, load: { seconds: number; concurrency: number }) {
  const bare = best(full.bare, (run) => -run.perSecond);
  const paid = best(full.paid, (run) => -run.perSecond);
  const [direct, bareSteady, paidSteady] = [steady.upstream, steady.bare, steady.paid].map((runs) =>
    best(runs, (run) => run.p50),
  );
  const added = (it: LoadFigures | undefined, at: "p50" | "p99") =>
    Number(((it?.[at] ?? 0) - (direct?.[at] ?? 0)).toFixed(3));
  return {
    bench: "gateway",
    cores: cpus().length,
    ...load,
    upstream: best(full.upstream, (run) => -run.perSecond),
    bare,
    paid,
    paid_of_bare: Number((paid.perSecond / bare.perSecond).toFixed(3)),
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
  const line = (name: string, { perSecond, p50, p99, failed }: LoadFigures) =>
    console.log(
      `${name.padEnd(44)}${String(perSecond).padStart(8)} rps   p50 ${p50} ms   p99 ${p99} ms` +
        (failed > 0 ? `   ${failed} FAILED` : ""),
    );
  console.log(`gateway, ${result.concurrency} connections, ${result.cores} cores shared by all`);
  line("upstream alone", result.upstream);
  line("bare proxy (node:http + undici)", result.bare);
  line("gateway, each request held and captured", result.paid);
  console.log(`paid / bare: ${result.paid_of_bare}`);
  const { bare, paid } = result.added_ms_at_200_rps;
  console.log(`added at ${STEADY_RATE} rps: bare p50 ${bare.p50} ms, p99 ${bare.p99} ms`);
  console.log(`added at ${STEADY_RATE} rps: paid p50 ${paid.p50} ms, p99 ${paid.p99} ms`);
}

/** One owner with child keys that all have limits. @returns the keys' secrets */
async function seed(databaseUrl: string, pepper: string): Promise<string[]> {
  const sql = connect(databaseUrl, { name: "bench seed", max: 2 });
  try {
    await setModelPrice(sql, {
      model: MODEL,
      inputPerMtok: 15_000_000n,
      outputPerMtok: 15_000_000n,
      contextTokens: null,
      maxOutputTokens: null,
      enabled: true,
    });
    return await seedKeys(sql, pepper);
  } finally {
    await sql.end();
  }
}

async function seedKeys(sql: Sql, pepper: string): Promise<string[]> {
  const email = `bench-${randomBytes(6).toString("hex")}@example.com`;
  const password = randomBytes(16).toString("hex");
  const account = await register(sql, { email, password, referralCode: undefined });
  await creditAccount(sql, { account, amount: 10n ** 17n, reference: email });
  const owner = { kind: "owner", account } as const;
  const fields = { name: "bench", access: "read_write", expiresAt: null } as const;
  const { key: managementKey } = await createManagementKey(sql, owner, fields, pepper);
  const secrets: string[] = [];
  for (let i = 0; i < KEYS; i++) {
    const child = {
      name: `bench ${i}`,
      limitDaily: 10n ** 15n,
      limitMonthly: 10n ** 16n,
      limitTotal: null,
      rateLimitRpm: null,
      expiresAt: null,
      models: null,
      metadata: {},
    };
    const { secret } = await createChildKey(sql, owner, managementKey.id, child, pepper);
    secrets.push(secret);
  }
  return secrets;
}

async function generate(load: Load): Promise<LoadFigures> {
  const child = startProcess("./load.ts");
  try {
    await readyOf(child);
    child.send(load);
    return (await messageOf<{ figures: LoadFigures }>(child)).figures;
  } finally {
    await stop(child);
  }
}

/** The URL that a process says that it serves. */
async function readyOf(child: ChildProcess): Promise<string> {
  const { ready } = await messageOf<{ ready: string | { http: string } }>(child);
  return typeof ready === "string" ? ready : ready.http;
}
