import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import postgres from "postgres";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Charge } from "../src/dev/endings.js";
import { isRunning, KEYTOLL, readOrNothing } from "../src/dev/processes.js";
import type { Ready } from "../src/dev/run-file.js";

const FREE_PORTS = { PORT: "0", GRPC_PORT: "0", TEMPORAL_UI_PORT: "0" };
const LONG = 120_000;

interface Run {
  child: ChildProcess;
  output(): string;
  /** Exit code, once it has ended. */
  ended: Promise<number | null>;
}

let dataDir = "";
let runs: Run[] = [];

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "keytoll-dev-"));
});

afterEach(async () => {
  const charges = started();
  for (const { child } of runs) child.kill("SIGTERM");
  await Promise.all(runs.map(({ ended }) => ended));
  await allGone(charges);
  runs = [];
  rmSync(dataDir, { recursive: true, force: true });
});

function dev(env: Record<string, string> = {}): Run {
  const child = spawn(process.execPath, [KEYTOLL, "dev"], {
    env: { PATH: process.env.PATH, HOME: process.env.HOME, ...FREE_PORTS, ...env, ...dirEnv() },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (bytes) => {
      text += bytes;
    });
  }
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  const run = { child, output: () => text, ended };
  runs.push(run);
  return run;
}

const dirEnv = () => ({ KEYTOLL_DATA_DIR: dataDir });

/** Waits for the banner's last line. */
async function ready(run: Run): Promise<Ready> {
  const line = await vi.waitFor(
    () => {
      const found = /^ready (.*)$/m.exec(run.output());
      expect(run.child.exitCode, run.output()).toBeNull();
      expect(found, run.output()).not.toBeNull();
      return found?.[1] ?? "";
    },
    { timeout: 60_000, interval: 50 },
  );
  return JSON.parse(line) as Ready;
}

/** Every process that the latest run has noted down. */
function started(): Charge[] {
  return JSON.parse(readOrNothing(join(dataDir, "processes.json")) ?? "[]") as Charge[];
}

async function allGone(charges: Charge[]): Promise<void> {
  await vi.waitFor(() => expect(charges.filter((it) => isRunning(it.process))).toEqual([]), {
    timeout: 30_000,
    interval: 50,
  });
}

/** The least that shows whether the data survived. */
async function inDatabase<T>(url: string, act: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    return await act(sql);
  } finally {
    await sql.end();
  }
}

const leaveMark = (url: string) =>
  inDatabase(url, (sql) => sql`create table mark as select 42 as it`);
const readMark = (url: string) => inDatabase(url, (sql) => sql`select it from mark`);

describe("a start", () => {
  test("names a port that others have, and the variable that changes it", async () => {
    const other = createServer();
    const port = await new Promise<number>((resolve) => {
      other.listen(0, "127.0.0.1", () => resolve((other.address() as { port: number }).port));
    });
    const run = dev({ GRPC_PORT: String(port) });
    expect(await run.ended).toBe(1);
    other.close();
    expect(run.output()).toContain(`port ${port} (GRPC_PORT) is taken`);
    expect(existsSync(join(dataDir, "postgres"))).toBe(false);
  });

  test("refuses a variable that it does not know, with exit code 2", async () => {
    const run = dev({ KEYTOLL_SECRETS: "x" });
    expect(await run.ended).toBe(2);
    expect(run.output()).toContain("did you mean KEYTOLL_SECRET");
  });

  test("needs its secrets in production, and makes none up", async () => {
    const run = dev({ NODE_ENV: "production" });
    expect(await run.ended).toBe(1);
    expect(run.output()).toContain("KEYTOLL_SECRET and KEYTOLL_ADMIN_TOKEN: required");
    expect(existsSync(join(dataDir, "secret"))).toBe(false);
  });
});

describe("a run", () => {
  test("keeps its data over an orderly stop, refuses a second run meanwhile, leaves nothing", {
    timeout: LONG,
  }, async () => {
    const first = dev();
    const before = await ready(first);
    const { status } = await fetch(`${before.http}/readyz`);
    expect(status).toBe(200);
    await leaveMark(before.database_url);
    const charges = started();
    expect(charges.map((it) => it.kind)).toEqual(
      expect.arrayContaining(["postgres", "temporal", "gateway", "worker", "upstream"]),
    );

    const second = dev();
    expect(await second.ended).toBe(1);
    expect(second.output()).toContain("is in use by another run");

    first.child.kill("SIGTERM");
    expect(await first.ended).toBe(0);
    expect(charges.filter((it) => isRunning(it.process))).toEqual([]);
    expect(existsSync(join(dataDir, "run.json"))).toBe(false);

    const again = await ready(dev());
    expect(await readMark(again.database_url)).toEqual([{ it: 42 }]);
    expect(again.database_url).toBe(before.database_url);
  });

  test("that is killed leaves no process behind, and its folder serves the next start", {
    timeout: LONG,
  }, async () => {
    const first = dev();
    await leaveMark((await ready(first)).database_url);
    const charges = started();
    first.child.kill("SIGKILL");
    await first.ended;
    await allGone(charges);

    const again = await ready(dev());
    expect(await readMark(again.database_url)).toEqual([{ it: 42 }]);
  });

  test("takes over what a killed run has left when its guardian was killed too", {
    timeout: LONG,
  }, async () => {
    const first = dev();
    await leaveMark((await ready(first)).database_url);
    const charges = started();
    process.kill(guardianOf(first), "SIGKILL");
    first.child.kill("SIGKILL");
    await first.ended;
    const left = charges.filter((it) => it.kind === "postgres");
    expect(left.map((it) => isRunning(it.process))).toEqual([true]);

    const second = dev();
    const again = await ready(second);
    expect(second.output()).toContain("left processes behind");
    expect(left.map((it) => isRunning(it.process))).toEqual([false]);
    expect(await readMark(again.database_url)).toEqual([{ it: 42 }]);
  });

  test("starts a service again that was killed, where it was", { timeout: LONG }, async () => {
    const run = dev();
    const { database_url, http } = await ready(run);
    for (const kind of ["temporal", "postgres", "gateway"]) {
      const [it] = started().filter((charge) => charge.kind === kind);
      process.kill(it?.process.pid ?? 0, "SIGKILL");
    }
    await vi.waitFor(
      async () => {
        expect((run.output().match(/runs again/g) ?? []).length).toBe(3);
        expect((await fetch(`${http}/readyz`)).status).toBe(200);
      },
      { timeout: 40_000, interval: 100 },
    );
    expect(await inDatabase(database_url, (sql) => sql`select 1 as one`)).toEqual([{ one: 1 }]);
  });

  test("that was killed in its first seconds is made good by the next one", {
    timeout: LONG,
  }, async () => {
    const first = dev();
    await vi.waitFor(() => expect(existsSync(join(dataDir, "postgres.new", "base"))).toBe(true), {
      timeout: 20_000,
      interval: 5,
    });
    first.child.kill("SIGKILL");
    await first.ended;
    expect(existsSync(join(dataDir, "postgres"))).toBe(false);
    expect((await ready(dev())).http).toMatch(/^http/);
  });

  test("survives a stale lock, a stale server's pid file and a damaged Temporal database", {
    timeout: LONG,
  }, async () => {
    const first = dev();
    await leaveMark((await ready(first)).database_url);
    first.child.kill("SIGTERM");
    await first.ended;

    // a pid that lives, but is no longer who wrote it
    const alive = process.pid;
    writeFileSync(join(dataDir, "dev.lock"), JSON.stringify({ pid: alive, start: "1" }));
    const pidFile = `${alive}\n${join(dataDir, "postgres")}\n1\n5432\n\n127.0.0.1\n0 0\nready\n`;
    writeFileSync(join(dataDir, "postgres", "postmaster.pid"), pidFile, { mode: 0o644 });
    writeFileSync(join(dataDir, "temporal.db"), Buffer.alloc(8_192, "damage"));

    const second = dev();
    const again = await ready(second);
    expect(second.output()).toContain("Temporal: its database is made anew");
    expect(await readMark(again.database_url)).toEqual([{ it: 42 }]);
    expect(readFileSync(join(dataDir, "temporal.db.old")).toString()).toContain("damage");
  });
});

/** The guardian is the one child that no list names: it is found by its parent. */
function guardianOf(run: Run): number {
  const children = readFileSync(
    `/proc/${run.child.pid}/task/${run.child.pid}/children`,
    "utf8",
  ).split(" ");
  const pid = children.find((it) =>
    readOrNothing(`/proc/${it}/cmdline`)?.includes("guardian-main"),
  );
  return Number(pid);
}
