import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { fileFromTarGz } from "../src/dev/unpack.js";

test("a program comes out of a tar.gz archive as it went in, whatever stands before it", () => {
  const folder = mkdtempSync(join(tmpdir(), "keytoll-unpack-"));
  const program = randomBytes(100_001);
  writeFileSync(join(folder, "LICENSE"), "text");
  writeFileSync(join(folder, "temporal"), program);
  execFileSync("tar", ["-czf", "a.tar.gz", "LICENSE", "temporal"], { cwd: folder });
  const archive = readFileSync(join(folder, "a.tar.gz"));
  rmSync(folder, { recursive: true });

  expect(fileFromTarGz(archive, (name) => name === "temporal").equals(program)).toBe(true);
  expect(() => fileFromTarGz(archive, (name) => name === "other")).toThrow("does not hold");
});
