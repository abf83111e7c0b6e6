import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { creditAccount, register } from "../../src/accounts/accounts.js";
import { newId } from "../../src/base/ids.js";
import { connect, only, type Sql } from "../../src/db/sql.js";
import { createManagementKey } from "../../src/keys/management-keys.js";
import { hashSecret, hintOf, nameOfPepper, newSecret } from "../../src/keys/secret.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import { cpuOf, keptBy, messageOf, startProcess, startVerb, stop } from "./processes.js";

export const MODEL = "bench/fast";

/** A gateway with its upstream and a bare proxy, each a process of its own, and an owner's keys. */
export interface PaidWorld {
  upstream: string;
  bare: string;
  gateway: string;
  /** Secrets of child keys. */
  keys: string[];
  /** Seconds of CPU time that gateway and Postgres, all its processes, have used so far. */
  cpu(): { gateway: number; postgres: number };
  /** Bytes of memory that the gateway has in use now. */
  memory(): number;
  /** Bytes of heap and buffers that the gateway holds now, without garbage. */
  kept(): Promise<number>;
  /** A client process, ended with the world. @returns it once it is ready */
  client(file: string): Promise<ChildProcess>;
  close(): Promise<void>;
}

/** @param keys how many child keys, each with limits that never bind */
export async function openPaidWorld(databaseUrl: string, keys: number): Promise<PaidWorld> {
  const started: ChildProcess[] = [];
  const begun = async (child: ChildProcess) => {
    started.push(child);
    const { ready } = await messageOf<{ ready: string | { http: string } }>(child);
    return { child, url: typeof ready === "string" ? ready : ready.http };
  };
  const sql = connect(databaseUrl, { name: "bench seed", max: 2 });
  const close = async () => {
    await Promise.all(started.map(stop));
    await sql.end();
  };
  try {
    const secret = randomBytes(32).toString("hex");
    const { url: upstream } = await begun(startProcess("./upstream.ts"));
    const { url: bare } = await begun(startProcess("./bare-proxy.ts", [upstream]));
    const secrets = await seed(sql, secret, keys);
    const postmaster = await postmasterOf(sql);
    const gateway = await begun(
      startVerb("serve", {
        ...process.env,
        DATABASE_URL: databaseUrl,
        KEYTOLL_SECRET: secret,
        KEYTOLL_UPSTREAM_URL: upstream,
        KEYTOLL_LOG_LEVEL: "warn",
        PORT: "0",
        GRPC_PORT: "0",
      }),
    );
    return {
      ...{ upstream, bare, gateway: gateway.url, keys: secrets, close },
      cpu: () => ({
        gateway: cpuOf([gateway.child.pid]),
        postgres: cpuOf([postmaster, ...childrenOf(postmaster)]),
      }),
      memory: () => residentBytes(gateway.child.pid),
      kept: () => keptBy(gateway.child),
      client: async (file) => (await begun(startProcess(file))).child,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** One owner, one model, and child keys under one management key. @returns the keys' secrets */
async function seed(sql: Sql, pepper: string, keys: number): Promise<string[]> {
  await setModelPrice(sql, { ...TERMS, model: MODEL });
  const email = `bench-${randomBytes(6).toString("hex")}@example.com`;
  const password = randomBytes(16).toString("hex");
  const account = await register(sql, { email, password, referralCode: undefined });
  await creditAccount(sql, { account, amount: 10n ** 17n, reference: email });
  const owner = { kind: "owner", account } as const;
  const fields = { name: "bench", access: "read_write", expiresAt: null } as const;
  const { key } = await createManagementKey(sql, owner, fields, pepper);
  const secrets = Array.from({ length: keys }, () => newSecret("child"));
  for (let from = 0; from < keys; from += 10_000) {
    await insertChildren(
      sql,
      { account, parent: key.id, pepper },
      secrets.slice(from, from + 10_000),
    );
  }
  await sql`analyze child_key, child_limit, key_secret`;
  return secrets;
}

const LIMITS = { daily: 10n ** 15n, monthly: 10n ** 16n };

const TERMS = {
  inputPerMtok: 15_000_000n,
  outputPerMtok: 15_000_000n,
  contextTokens: null,
  maxOutputTokens: null,
  enabled: true,
};

/** As the keys' own door makes them, thousands at a time. */
async function insertChildren(
  sql: Sql,
  { account, parent, pepper }: { account: string; parent: string; pepper: string },
  secrets: string[],
): Promise<void> {
  const ids = secrets.map(() => newId());
  await sql.begin(async (tx) => {
    await tx`
      insert into child_key (id, account_id, management_key_id, name, hint, limit_daily,
        limit_monthly, day, month, created_at, updated_at)
      select k.id, ${account}, ${parent}, 'bench', k.hint, ${LIMITS.daily}::bigint,
             ${LIMITS.monthly}::bigint, t.day, date_trunc('month', t.day), t.now, t.now
        from unnest(${ids}::uuid[], ${secrets.map(hintOf)}::text[]) k(id, hint)
       cross join (select keytoll_clock() as now, (keytoll_clock() at time zone 'UTC')::date as day) t`;
    await tx`
      insert into child_limit (child_key_id, since, limit_daily, limit_monthly)
      select id, keytoll_clock(), ${LIMITS.daily}::bigint, ${LIMITS.monthly}::bigint
        from unnest(${ids}::uuid[]) id`;
    await tx`
      insert into key_secret (hash, pepper, kind, key_id, version, created_at)
      select decode(h, 'hex'), ${nameOfPepper(pepper)}, 'child', k, 1, keytoll_clock()
        from unnest(${ids}::uuid[],
               ${secrets.map((it) => hashSecret(it, pepper).toString("hex"))}::text[]) u(k, h)`;
  });
}

async function postmasterOf(sql: Sql): Promise<number> {
  const { pid } = only(await sql<{ pid: number }[]>`select pg_backend_pid() as pid`);
  return parentOf(pid) ?? 0;
}

const statOf = (pid: number | string): string[] =>
  readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];

function parentOf(pid: number | string): number | undefined {
  try {
    return Number(statOf(pid)[1]);
  } catch {
    return undefined; // ended meanwhile
  }
}

const childrenOf = (parent: number): number[] =>
  readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name) && parentOf(name) === parent)
    .map(Number);

function residentBytes(pid: number | undefined): number {
  const [, kilobytes] =
    /VmRSS:\s+([0-9]+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kilobytes) * 1_024;
}
