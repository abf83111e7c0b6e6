import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { REASONS } from "../src/base/errors.js";
import { ReasonSchema } from "../src/gen/keytoll/v1/reason_pb.js";
import { compareWithPrevious } from "./support/breaking.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const buf = join(root, "node_modules/.bin/buf");
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "keytoll-proto-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

test("the generated code is what proto/ generates", { timeout: 60_000 }, () => {
  execFileSync(buf, ["generate", "-o", folder], { cwd: root });
  expect(filesOf(join(folder, "src/gen"))).toEqual(filesOf(join(root, "src/gen")));
});

test("proto/ follows buf's standard rules", { timeout: 60_000 }, () => {
  expect(execFileSync(buf, ["lint"], { cwd: root, encoding: "utf8" })).toBe("");
});

test("every reason of a refusal has its word in proto, and every word its reason", () => {
  const words = ReasonSchema.values.filter(({ number }) => number !== 0).map(({ name }) => name);
  const reasons = Object.keys(REASONS).map((reason) => `REASON_${reason.toUpperCase()}`);
  expect([...words].sort()).toEqual(reasons.sort());
});

test("a field that callers rely on cannot vanish unnoticed", { timeout: 60_000 }, () => {
  const file = join(folder, "proto/keytoll/v1/auth.proto");
  cpSync(join(root, "proto"), join(folder, "proto"), { recursive: true });
  cpSync(join(root, "buf.yaml"), join(folder, "buf.yaml"));
  const git = (...args: string[]) =>
    execFileSync("git", ["-c", "user.name=t", "-c", "user.email=t@example.com", ...args], {
      cwd: folder,
    });
  git("init", "--quiet");
  expect(compareWithPrevious(folder).text).toMatch(/nothing to compare with/);

  git("add", ".");
  git("commit", "--quiet", "-m", "first");
  const before = readFileSync(file, "utf8");
  writeFileSync(file, before.replace("optional string referral_code = 3;", ""));
  const broken = compareWithPrevious(folder);
  expect(broken.ok).toBe(false);
  expect(broken.text).toMatch(/"3" with name "referral_code"/);

  writeFileSync(file, before.replace("referral_code = 3;", "$&\n  // New.\n  bool more = 4;"));
  expect(compareWithPrevious(folder)).toMatchObject({ ok: true });
});

function filesOf(path: string): Record<string, string> {
  const names = readdirSync(path, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  return Object.fromEntries(
    names.sort().map((name) => [name, readFileSync(join(path, name), "utf8")]),
  );
}
