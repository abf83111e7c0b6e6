import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { TYPESCRIPT } from "../../src/dev/processes.js";
import { createSpool, type Spool } from "../../src/holds/delivery/spool.js";
import {
  encodeRecord,
  readRecords,
  type SpoolRecord,
} from "../../src/holds/delivery/spool-record.js";

const SOURCES = fileURLToPath(new URL("../../src/", import.meta.url));
const log = createLog("silent", "test");

let dataDir: string;
const open: Spool[] = [];
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "keytoll-spool-"));
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((spool) => spool.close()));
  rmSync(dataDir, { recursive: true, force: true });
});

function aSpool(limit?: number): Spool {
  const spool = createSpool({ dataDir, log, ...(limit === undefined ? {} : { limit }) });
  open.push(spool);
  return spool;
}

/** Lets go of a spool as a gateway does at its end. */
async function end(spool: Spool): Promise<void> {
  open.splice(open.indexOf(spool), 1);
  await spool.close();
}

function aRecord(): SpoolRecord {
  const capture = {
    ...{ costNgonka: "7", inputTokens: "3", outputTokens: "4" },
    ...{ estimated: false, fingerprint: "-9007199254740993" },
  };
  return { ending: { accountId: newId(), holdId: newId(), capture }, since: 1_763_900_000_000 };
}
const records = (count: number) => Array.from({ length: count }, aRecord);
const idsOf = (some: SpoolRecord[]) => some.map(({ ending }) => ending.holdId).sort();

const filesIn = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".spool"))
    .map((name) => join(folder, name));
const onlyFile = (): string => filesIn(dataDir)[0] ?? "none";

test("what was accepted is there for the next gateway, to the last field", async () => {
  const spool = aSpool();
  const all = records(100);
  await Promise.all(all.map((record) => spool.append(record)));
  await end(spool);
  const found = await aSpool().takeUp();
  expect(found).toEqual(expect.arrayContaining(all));
  expect(found).toHaveLength(100);
});

test("records that come together share a flush, and one file", async () => {
  const spool = aSpool();
  await Promise.all(records(500).map((record) => spool.append(record)));
  expect(filesIn(dataDir)).toHaveLength(1);
  expect(readRecords(readFileSync(onlyFile())).records).toHaveLength(500);
});

test("a tail torn at any byte of the last record costs that record only", async () => {
  const spool = aSpool();
  const all = records(3);
  for (const record of all) await spool.append(record);
  await end(spool);
  const whole = readFileSync(onlyFile());
  const last = whole.length - encodeRecord(all[2] as SpoolRecord).length;
  for (let size = last; size < whole.length; size += 1) {
    const { records: read, sound } = readRecords(whole.subarray(0, size));
    expect({ ids: idsOf(read), sound }).toEqual({ ids: idsOf(all.slice(0, 2)), sound: last });
  }
  writeFileSync(onlyFile(), whole.subarray(0, last + 20));
  expect(idsOf(await aSpool().takeUp())).toEqual(idsOf(all.slice(0, 2)));
  expect(readFileSync(onlyFile())).toHaveLength(last);
});

test("a damaged record is never taken for a sound one, wherever the damage is", () => {
  const all = records(3);
  const whole = Buffer.concat(all.map(encodeRecord));
  fc.assert(
    fc.property(
      fc.nat(whole.length - 1),
      fc.integer({ min: 1, max: 255 }),
      fc.uint8Array({ maxLength: 40 }),
      (at, flip, garbage) => {
        const damaged = Buffer.from(whole);
        damaged[at] = (damaged[at] ?? 0) ^ flip;
        const read = readRecords(Buffer.concat([damaged, garbage])).records;
        expect(read).toEqual(all.slice(0, read.length));
      },
    ),
  );
});

test("bytes that a power failure left as zeros are a torn tail", () => {
  const record = aRecord();
  const text = encodeRecord(record);
  const { records: read, sound } = readRecords(Buffer.concat([text, Buffer.alloc(4_096)]));
  expect({ read, sound }).toEqual({ read: [record], sound: text.length });
});

test("a file goes once everything in it is settled, and the folder with the gateway", async () => {
  const spool = aSpool();
  const [first, second, third] = records(3) as [SpoolRecord, SpoolRecord, SpoolRecord];
  await Promise.all([spool.append(first), spool.append(second)]);
  spool.forget(first.ending.holdId);
  expect(filesIn(dataDir)).toHaveLength(1);
  spool.forget(second.ending.holdId);
  await vi.waitFor(() => expect(filesIn(dataDir)).toEqual([]));
  await spool.append(third);
  expect(spool.bytes()).toBe(encodeRecord(third).length);
  spool.forget(third.ending.holdId);
  await end(spool);
  expect(readdirSync(join(dataDir, "spool"))).toEqual([]);
});

test("two gateways on one data folder leave each other's spools alone", async () => {
  const [one, two] = [aSpool(), aSpool()];
  const record = aRecord();
  await Promise.all([one.append(record), two.append(aRecord())]);
  expect(await two.takeUp()).toEqual([]);
  await end(one);
  expect(await two.takeUp()).toEqual([record]);
  expect(await two.takeUp()).toEqual([]);
  two.forget(record.ending.holdId);
  await vi.waitFor(() => expect(filesIn(dataDir)).toHaveLength(1));
});

/** A process that appends what it is sent, tells what became of it, and is killed when asked to. */
const GATEWAY = `
  const [spoolFile, logFile, dataDir] = process.argv.slice(2);
  const { createSpool } = await import(spoolFile);
  const { createLog } = await import(logFile);
  const spool = createSpool({ dataDir, log: createLog("silent", "test") });
  process.on("message", async (records) => {
    const done = await Promise.allSettled(records.map((record) => spool.append(record)));
    process.send(done.map(({ status }) => status));
  });
  process.send("up");`;

/** @param fileBlocks KiB that a file may have: what is beyond is refused as by a full disk */
async function aGatewayProcess(fileBlocks = "unlimited") {
  const script = join(dataDir, "gateway.mjs");
  writeFileSync(script, GATEWAY);
  const files = ["holds/delivery/spool", "base/log"].map((name) => join(SOURCES, `${name}.ts`));
  const args = [process.execPath, ...TYPESCRIPT, script, ...files, dataDir];
  const run = `ulimit -f ${fileBlocks}; exec "$@"`;
  const child = spawn("bash", ["-c", run, "bash", ...args], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const next = () => new Promise<unknown>((resolve) => child.once("message", resolve));
  await next();
  return {
    async append(some: SpoolRecord[]): Promise<SpoolRecord[]> {
      const answer = next();
      child.send(some);
      const statuses = (await answer) as string[];
      return some.filter((_, i) => statuses[i] === "fulfilled");
    },
    async kill(): Promise<void> {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await ended;
    },
  };
}

test("a gateway killed right after accepting has lost nothing, and its folder is free at once", async () => {
  const gateway = await aGatewayProcess();
  const accepted = await gateway.append(records(30));
  await gateway.kill();
  expect(accepted).toHaveLength(30);
  expect(idsOf(await aSpool().takeUp())).toEqual(idsOf(accepted));
});

test("a disk that is full in the middle of a record costs no record that was accepted before or after", async () => {
  const gateway = await aGatewayProcess("16");
  const [accepted, all] = [[] as SpoolRecord[], records(210)];
  for (let at = 0; at < all.length; at += 7) {
    accepted.push(...(await gateway.append(all.slice(at, at + 7))));
  }
  await gateway.kill();
  expect(accepted.length).toBeLessThan(210);
  expect(accepted.length).toBeGreaterThan(150);
  expect(filesIn(dataDir).length).toBeGreaterThan(2);
  expect(idsOf(await aSpool().takeUp())).toEqual(expect.arrayContaining(idsOf(accepted)));
});

test("a full spool takes nothing more, says so, and keeps what it has", async () => {
  const spool = aSpool(600);
  const [first, second, third] = records(3) as [SpoolRecord, SpoolRecord, SpoolRecord];
  await spool.append(first);
  await spool.append(second);
  await expect(spool.append(third)).rejects.toThrow("full");
  expect(spool.problem()).toContain("full");
  await end(spool);
  const next = aSpool();
  expect(idsOf(await next.takeUp())).toEqual(idsOf([first, second]));
  next.forget(first.ending.holdId);
  next.forget(second.ending.holdId);
  await next.append(third);
  expect(next.problem()).toBeUndefined();
});

test("a data folder that cannot be written is named, and used again once it can", async () => {
  const blocked = join(dataDir, "spool");
  writeFileSync(blocked, "a file where the folder should be");
  const spool = aSpool();
  await spool.probe();
  expect(spool.problem()).toMatch(/EEXIST|ENOTDIR/);
  await expect(spool.append(aRecord())).rejects.toThrow();
  rmSync(blocked);
  await spool.append(aRecord());
  expect(spool.problem()).toBeUndefined();
});

test("a data folder whose path is too long for a socket is refused in words", async () => {
  const deep = createSpool({ dataDir: join(dataDir, "x".repeat(120)), log });
  await deep.probe();
  expect(deep.problem()).toContain("choose a shorter KEYTOLL_DATA_DIR");
});
