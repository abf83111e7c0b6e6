import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { elapsed, SECOND } from "../../src/base/time.js";
import { findOnPath } from "../../src/dev/find-temporal.js";

interface Tally {
  passed: number;
  failed: number;
  skipped: number;
}

interface Report {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
  testResults: { name: string; status: string; assertionResults: Assertion[] }[];
}

interface Assertion {
  fullName: string;
  status: string;
}

const tell = (line: string) => console.log(`\n== ${line}`);

/**
 * What `npm test` runs: types, lint, then all tests; with arguments only the tests, and the
 * arguments go to vitest. The last line tells how many passed, failed and were skipped. In CI a
 * skipped test is a failure.
 */
async function main(args: string[]): Promise<number> {
  ensurePackage("redis-server");
  ensurePackage("chromium");
  const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
  if (args.length === 0) {
    for (const script of ["check:types", "lint"]) {
      if (!(await step(script, "npm", ["run", "--silent", script]))) tally.failed += 1;
    }
  }
  await tests(args, tally);
  console.log(`\n${tally.passed} passed, ${tally.failed} failed, ${tally.skipped} skipped`);
  const skippedInCi = process.env.CI === "true" && tally.skipped > 0;
  return tally.failed > 0 || skippedInCi ? 1 : 0;
}

async function tests(args: string[], tally: Tally): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "keytoll-report-"));
  const file = join(folder, "report.json");
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${file}`];
  const passed = await step("vitest", "npx", ["vitest", "run", ...reporters, ...args]);
  const report = readReport(file);
  rmSync(folder, { recursive: true, force: true });

  const failedFiles = report?.testResults.filter(
    (it) => it.status === "failed" && it.assertionResults.every((one) => one.status !== "failed"),
  );
  const failed = (report?.numFailedTests ?? 0) + (failedFiles?.length ?? 0);
  tally.passed += report?.numPassedTests ?? 0;
  tally.skipped += (report?.numPendingTests ?? 0) + (report?.numTodoTests ?? 0);
  // An error outside any test fails vitest without a failed test
  tally.failed += passed ? failed : Math.max(failed, 1);
  for (const name of report ? skippedTests(report) : []) console.log(`SKIPPED: ${name}`);
}

function skippedTests(report: Report): string[] {
  return report.testResults.flatMap((it) =>
    it.assertionResults
      .filter(({ status }) => ["pending", "skipped", "todo"].includes(status))
      .map(({ fullName }) => `${it.name}: ${fullName}`),
  );
}

function readReport(file: string): Report | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Report;
  } catch {
    return undefined;
  }
}

async function step(name: string, command: string, args: string[]): Promise<boolean> {
  tell(`${name} ...`);
  const start = elapsed();
  const child = spawn(command, args, { stdio: "inherit" });
  // Ctrl-C reaches the child as well; it stops its services and then we end with it
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", resolve);
  });
  const seconds = ((elapsed() - start) / SECOND).toFixed(1);
  tell(`${name}: ${code === 0 ? "passed" : "FAILED"} in ${seconds} s`);
  return code === 0;
}

/** Some tests need a real Redis, or a browser. Where we may install it, on Debian as root, we do. */
function ensurePackage(name: "redis-server" | "chromium"): void {
  const canInstall = process.getuid?.() === 0 && findOnPath("apt-get") !== undefined;
  if (findOnPath(name) || !canInstall) return;
  tell(`no ${name} here: apt-get install -y ${name}`);
  try {
    execFileSync("apt-get", ["update", "-qq"], { stdio: "inherit" });
    execFileSync("apt-get", ["install", "-y", "-qq", name], {
      stdio: "inherit",
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    });
  } catch {
    console.log(`${name} could not be installed; the tests that need it are skipped`);
  }
}

process.exitCode = await main(process.argv.slice(2));
