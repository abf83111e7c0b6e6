import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const BUF = fileURLToPath(new URL("../../node_modules/.bin/buf", import.meta.url));

/**
 * Compares proto/ with the commit before it: with HEAD where proto/ has changes that are not
 * committed, else with HEAD's parent.
 *
 * @param root work tree of a git repository with buf.yaml and proto/
 * @returns ok, and what to tell: each break with its place, or why there was nothing to compare
 *   with
 */
export function compareWithPrevious(root: string): { ok: boolean; text: string } {
  const commit = previousCommit(root);
  if (commit === undefined) {
    return { ok: true, text: "no earlier commit has proto files: nothing to compare with" };
  }
  const folder = mkdtempSync(join(tmpdir(), "keytoll-breaking-"));
  try {
    const before = join(folder, "before.tar");
    git(root, ["archive", "-o", before, commit, "proto", "buf.yaml"]);
    const run = spawnSync(BUF, ["breaking", "--against", before], { cwd: root, encoding: "utf8" });
    const ok = run.status === 0;
    const text = ok ? `proto/ breaks nothing of ${commit}` : `${run.stdout}${run.stderr}`.trim();
    return { ok, text };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function previousCommit(root: string): string | undefined {
  const changed = git(root, ["status", "--porcelain", "--", "proto"]) !== "";
  const before = changed ? "HEAD" : "HEAD^";
  const commit = tryGit(root, [
    "rev-parse",
    "--verify",
    "--quiet",
    "--short",
    `${before}^{commit}`,
  ]);
  const hasProto = commit && tryGit(root, ["ls-tree", commit, "--", "proto", "buf.yaml"]);
  return hasProto?.includes("\tproto") && hasProto.includes("\tbuf.yaml") ? commit : undefined;
}

function git(root: string, args: string[]): string {
  return execFileSync("git", args, { cwd: root, encoding: "utf8" }).trim();
}

function tryGit(root: string, args: string[]): string | undefined {
  const run = spawnSync("git", args, { cwd: root, encoding: "utf8" });
  return run.status === 0 ? run.stdout.trim() : undefined;
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { ok, text } = compareWithPrevious(process.cwd());
  console.log(text);
  process.exitCode = ok ? 0 : 1;
}
