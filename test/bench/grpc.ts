import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpus } from "node:os";
import { connect, type Sql } from "../../src/db/sql.js";
import { createManagementKey } from "../../src/keys/management-keys.js";
import type { GrpcFigures, GrpcLoad } from "./grpc-load.js";
import { engineFigures, type Figures, openBooks } from "./holds.js";
import { cpuOf, messageOf, startProcess, startVerb, stop } from "./processes.js";

export interface GrpcBench {
  /** Makes a migrated database without any rows. */
  emptyDatabase: () => Promise<string>;
  seconds: number;
  concurrency: number;
  /** True: the figures are only returned, not told. */
  json: boolean;
}

/** Microseconds of CPU time that a cycle takes, by process. */
interface CpuTimes {
  gateway: number;
  clients: number;
  postgres: number;
}

interface Through extends Figures {
  cpu_us: CpuTimes;
}

type Load = Pick<GrpcLoad, "seconds" | "concurrency">;

const CLIENTS = 2;
const ROUNDS = 2;

/**
 * Measures authorize + capture through HoldService, by a call each and by a stream, from clients of
 * @grpc/grpc-js in processes of their own, against the same cycle in process, and against the same
 * calls over Connect in JSON. In turns, each time from empty tables, and the best of each counts: a
 * machine that is busy with other things for a while harms all alike.
 */
export async function benchGrpc({ emptyDatabase, seconds, concurrency, json }: GrpcBench) {
  const load = { seconds, concurrency };
  const runs: Record<GrpcLoad["by"], Through[]> = { unary: [], stream: [], connect: [] };
  const inProcess: Figures[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    inProcess.push(await engineFigures(await emptyDatabase(), "cycles", load));
    for (const by of ["stream", "unary", "connect"] as const) {
      runs[by].push(await throughGateway(await emptyDatabase(), by, load));
    }
  }
  const cycles = fastest(inProcess);
  const against = (through: Through) => ({
    ...through,
    ratio: Number((through.perSecond / cycles.perSecond).toFixed(3)),
  });
  const through = {
    unary: against(fastest(runs.unary)),
    stream: against(fastest(runs.stream)),
    connect: against(fastest(runs.connect)),
  };
  const over = (by: "unary" | "stream") =>
    Number((through[by].perSecond / through.connect.perSecond).toFixed(2));
  const against_connect = { unary: over("unary"), stream: over("stream") };
  const result = { bench: "grpc", cores: cpus().length, ...load, clients: CLIENTS };
  if (!json) {
    report(load, cycles, through);
    const { unary, stream } = against_connect;
    console.log(`  gRPC against Connect in JSON: ${unary}x by a call each, ${stream}x by a stream`);
  }
  return { ...result, cycles, ...through, against_connect };
}

function fastest<F extends Figures>(runs: F[]): F {
  const [first] = runs.sort((a, b) => b.perSecond - a.perSecond);
  if (!first) throw new Error("no run");
  return first;
}

function report(
  { concurrency }: Load,
  cycles: Figures,
  through: Record<string, Through & { ratio: number }>,
): void {
  const line = (name: string, { perSecond, p50, p99 }: Figures) =>
    console.log(
      `  ${name.padEnd(20)}${String(perSecond).padStart(8)}/s   p50 ${p50} ms   p99 ${p99} ms`,
    );
  const cores = cpus().length;
  console.log(`grpc: hold + capture, ${concurrency} concurrent, ${cores} cores shared by all`);
  line("in process (cycles)", cycles);
  for (const [name, figures] of Object.entries(through)) {
    line(`HoldService, ${name}`, figures);
    const { gateway, clients, postgres } = figures.cpu_us;
    console.log(`    ratio: ${figures.ratio}x`);
    console.log(`    us of CPU: gateway ${gateway}, clients ${clients}, Postgres ${postgres}`);
  }
}

/** A gateway and its clients, each a process of its own. */
async function throughGateway(
  databaseUrl: string,
  by: GrpcLoad["by"],
  { seconds, concurrency }: Load,
): Promise<Through> {
  const started: ChildProcess[] = [];
  const begun = (child: ChildProcess) => {
    started.push(child);
    return child;
  };
  const sql = connect(databaseUrl, { name: "bench grpc", max: 1 });
  try {
    const pepper = randomBytes(32).toString("hex");
    const books = await seed(sql, pepper);
    const gateway = begun(
      startVerb("serve", {
        ...process.env,
        DATABASE_URL: databaseUrl,
        KEYTOLL_SECRET: pepper,
        KEYTOLL_LOG_LEVEL: "warn",
        PORT: "0",
        GRPC_PORT: "0",
      }),
    );
    const { ready } = await messageOf<{ ready: { grpc: string; http: string } }>(gateway);
    const share = Math.ceil(concurrency / CLIENTS);
    const { grpc: address, http } = ready;
    const load: GrpcLoad = { address, http, ...books, seconds, concurrency: share, by };
    const clients = Array.from({ length: CLIENTS }, () => begun(startProcess("./grpc-load.ts")));
    await all(clients);
    await all(clients, load);
    const before = await cpuTimes(sql, gateway, clients);
    const figures = await all<GrpcFigures>(clients, "go");
    // A client ends only when it is asked to, so its times can still be read
    const after = await cpuTimes(sql, gateway, clients);
    return { ...together(figures), cpu_us: spent(before, after, figures) };
  } finally {
    await sql.end();
    await Promise.all(started.map(stop));
  }
}

/** The next message of each, after telling them something. */
async function all<Message>(children: ChildProcess[], tell?: object | string): Promise<Message[]> {
  const messages = children.map((child) => messageOf<Message>(child));
  if (tell !== undefined) for (const child of children) child.send(tell);
  return await Promise.all(messages);
}

async function cpuTimes(sql: Sql, gateway: ChildProcess, clients: ChildProcess[]) {
  const backends = await sql<{ pid: number }[]>`
    select pid from pg_stat_activity where datname = current_database()`;
  return {
    gateway: cpuOf([gateway.pid]),
    clients: cpuOf(clients.map(({ pid }) => pid)),
    postgres: cpuOf(backends.map(({ pid }) => pid)),
  };
}

function spent(before: CpuTimes, after: CpuTimes, figures: GrpcFigures[]): CpuTimes {
  const cycles = figures.reduce((sum, run) => sum + run.cycles, 0);
  const each = (at: keyof CpuTimes) => Math.round(((after[at] - before[at]) * 1e6) / cycles);
  return { gateway: each("gateway"), clients: each("clients"), postgres: each("postgres") };
}

/** All clients' cycles; of their times those of the slower client. */
const together = (runs: Figures[]): Figures => ({
  perSecond: runs.reduce((sum, run) => sum + run.perSecond, 0),
  p50: Math.max(...runs.map((run) => run.p50)),
  p99: Math.max(...runs.map((run) => run.p99)),
});

/** The books of `cycles`, and the secret of the management key that their children are under. */
async function seed(sql: Sql, pepper: string) {
  const { account, children } = await openBooks(sql);
  const owner = { kind: "owner", account } as const;
  const fields = { name: "bench", access: "read_write", expiresAt: null } as const;
  const { key, secret } = await createManagementKey(sql, owner, fields, pepper);
  await sql`update child_key set management_key_id = ${key.id} where account_id = ${account}`;
  return { bearer: secret, children };
}
