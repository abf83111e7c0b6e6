import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { MINUTE } from "../../src/base/time.js";
import { findOnPath } from "../../src/dev/find-temporal.js";
import { watched } from "../../src/dev/progress.js";

const run = promisify(execFile);
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;

export interface Python {
  /**
   * Runs a script file with an environment of its own.
   *
   * @returns what it printed on its last line, as JSON
   * @throws Error with all that it printed where it fails, or takes more than a minute
   */
  json(script: string, env: Record<string, string>): Promise<unknown>;
  /** Starts a script that answers lines of JSON with lines of JSON, in any order. */
  start(script: string): PythonTalk;
}

export interface PythonTalk {
  /** @returns the answer, which has the `id` that was put into the question */
  ask(question: Record<string, unknown>): Promise<Record<string, unknown>>;
  stop(): void;
}

/**
 * A Python with packages of PyPI, which is made once and kept in the user's cache, by the names
 * that were asked for. Suites are skipped where it could not be made, which in CI is a failure.
 *
 * @param packages pinned: `openai==2.8.1`
 * @returns undefined where there is none; why has been said
 */
export async function findPython(packages: readonly string[]): Promise<Python | undefined> {
  const names = [...packages].sort().join(" ");
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "keytoll");
  const name = createHash("sha256").update(names).digest("hex").slice(0, 16);
  const folder = join(cache, `python-${name}`);
  if (!existsSync(folder)) {
    try {
      mkdirSync(cache, { recursive: true });
      await watched(console.log, `Python: fetching ${names}`, install(folder, packages));
    } catch (error) {
      console.warn(`Python: no ${names} here, tests that need it are skipped: ${whyOf(error)}`);
      return undefined;
    }
  }
  return pythonIn(folder);
}

/** Beside the place where it will be, so that half of it is never taken for the whole. */
async function install(folder: string, packages: readonly string[]): Promise<void> {
  const python = findOnPath("python3");
  if (python === undefined) throw new Error("there is no python3 on PATH");
  const draft = mkdtempSync(`${folder}-draft-`);
  try {
    await run(python, ["-m", "venv", draft], { timeout: 2 * MINUTE });
    const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
    await run(inside(draft), [...pip, ...packages], { timeout: 5 * MINUTE });
    // Another suite may have been faster
    if (!existsSync(folder)) renameSync(draft, folder);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

const inside = (folder: string): string => join(folder, "bin", "python");

function pythonIn(folder: string): Python {
  return {
    async json(script, env) {
      const { stdout } = await run(inside(folder), ["-X", "utf8", script], {
        env: { PATH: process.env.PATH, ...env },
        timeout: MINUTE,
        maxBuffer: MAX_OUTPUT_BYTES,
      });
      return JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "");
    },
    start: (script) => talk(inside(folder), script),
  };
}

function talk(python: string, script: string): PythonTalk {
  const child = spawn(python, ["-X", "utf8", "-u", script], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { PATH: process.env.PATH },
  });
  const waiting = new Map<unknown, (answer: Record<string, unknown>) => void>();
  let asked = 0;
  const ended = new Promise<never>((_, reject) => {
    child.once("exit", () => reject(new Error(`${script} has ended`)));
  });
  ended.catch(() => {});
  createInterface({ input: child.stdout }).on("line", (line) => {
    const answer = JSON.parse(line) as Record<string, unknown>;
    waiting.get(answer.id)?.(answer);
    waiting.delete(answer.id);
  });
  return {
    ask(question) {
      asked += 1;
      const answer = new Promise<Record<string, unknown>>((resolve) => {
        waiting.set(asked, resolve);
      });
      child.stdin.write(`${JSON.stringify({ ...question, id: asked })}\n`);
      return Promise.race([answer, ended]);
    },
    stop: () => void child.kill(),
  };
}

/** The last thing that a failed program said. */
function whyOf(error: unknown): string {
  const said = error instanceof Error && "stderr" in error ? String(error.stderr).trim() : "";
  return said.split("\n").at(-1) || String(error);
}
