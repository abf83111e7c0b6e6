import { expect, test } from "vitest";
import { inLines, summarize } from "./report.js";
import { runChaos } from "./run.js";

const LONG = 300_000;
/** The database first: holds that nobody ends wait for a while after its start. */
const SCRIPT = [
  "postgres killed while it commits",
  "answer of a commit lost",
  "gateway killed between hold and upstream call",
  "worker killed in the middle of settlement",
  "gateway killed in the middle of a stream",
  "gateway killed between upstream answer and capture",
  "line swallows everything",
];

test("whatever is killed under load, the books of the client, the upstream and the database agree", {
  timeout: LONG,
}, async () => {
  const seed = Date.now() % 1_000_000_007;
  const bounds = { seconds: 90, kills: SCRIPT.length, gateways: 2 };
  const result = await runChaos({ ...bounds, seed, script: SCRIPT, hurry: true, say: () => {} });
  const summary = summarize(result);
  const told = inLines(summary).join("\n");
  expect(summary.violations, told).toEqual([]);
  expect(summary.losses, told).toEqual([]);
  expect(summary.kills, told).toBeGreaterThanOrEqual(3);
  expect(summary.requests.acknowledged, told).toBeGreaterThan(0);
  expect(summary.holds.acknowledged, told).toBeGreaterThan(0);
});
