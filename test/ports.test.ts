import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { end } from "../src/dev/endings.js";
import { findTemporal } from "../src/dev/find-temporal.js";
import { freePort } from "../src/dev/ports.js";
import { startTemporal } from "../src/dev/temporal.js";

const folder = mkdtempSync(join(tmpdir(), "keytoll-ports-"));
const binary = join(folder, "temporal-late");
const asked = join(folder, "ports-asked-for");

/** The real server, for whose port another was quicker the first time. */
const late = (temporal: string) => `#!${process.execPath}
const { spawn } = require("node:child_process");
const { appendFileSync, existsSync } = require("node:fs");
const { createServer } = require("node:net");
const args = process.argv.slice(2);
const port = args[args.indexOf("--port") + 1];
const quicker = !existsSync(${JSON.stringify(asked)});
appendFileSync(${JSON.stringify(asked)}, port + "\\n");
const run = () => {
  const server = spawn(${JSON.stringify(temporal)}, args, { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => server.kill(signal));
  server.on("exit", (code) => process.exit(code ?? 1));
};
if (quicker) createServer().listen(port, "127.0.0.1", run);
else run();
`;

beforeAll(async () => {
  writeFileSync(binary, late(await findTemporal(() => {})));
  chmodSync(binary, 0o755);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const options = {
  ...{ binary, dataDir: folder, keep: false, uiPort: 0 },
  ...{ namespace: "default", say: () => {} },
};

test("a server whose port another takes while it starts comes up on another one", async () => {
  const server = await startTemporal({ ...options, port: 0 });
  await end({ process: server.process, kind: "temporal" });
  const ports = readFileSync(asked, "utf8").trim().split("\n");
  expect(ports).toHaveLength(2);
  expect(ports[0]).not.toBe(ports[1]);
  expect(server.address).toBe(`127.0.0.1:${ports[1]}`);
}, 60_000);

test("a server that must have its port, as after a crash, never comes up on another", async () => {
  rmSync(asked);
  const port = await freePort();
  const server = await startTemporal({ ...options, port });
  await end({ process: server.process, kind: "temporal" });
  expect(server.address).toBe(`127.0.0.1:${port}`);
  expect(readFileSync(asked, "utf8").trim().split("\n")).toEqual([String(port), String(port)]);
}, 60_000);
