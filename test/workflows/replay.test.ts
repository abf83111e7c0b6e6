import { readdirSync, readFileSync } from "node:fs";
import { type ReplayResult, Worker } from "@temporalio/worker";
import { expect, test } from "vitest";
import { workflowBundle } from "../../src/temporal/bundle.js";
import { installRuntime } from "../../src/temporal/run.js";
import * as workflows from "../../workflows/index.js";
import { DATA_DIR, quietLog } from "./world.js";

const FOLDER = new URL("./histories/", import.meta.url);
const names = readdirSync(FOLDER).filter((name) => name.endsWith(".json"));
const read = (name: string): string => readFileSync(new URL(name, FOLDER), "utf8");

installRuntime(quietLog);

async function replay(histories: string[]): Promise<ReplayResult[]> {
  const workflow = { workflowBundle: { codePath: await workflowBundle(DATA_DIR) } };
  const all = histories.map((text, i) => ({
    workflowId: names[i] ?? "",
    history: JSON.parse(text),
  }));
  const results: ReplayResult[] = [];
  for await (const result of Worker.runReplayHistories(workflow, all)) results.push(result);
  return results;
}

test("today's workflows can go on with every recorded history", async () => {
  const results = await replay(names.map(read));
  expect(results.filter((it) => it.error)).toEqual([]);
  expect(results).toHaveLength(names.length);
});

test("every workflow has a recorded history", () => {
  const recorded = names.map((name) => JSON.parse(read(name)).events[0]);
  const types = recorded.map((it) => it.workflowExecutionStartedEventAttributes.workflowType.name);
  expect([...new Set(types)].sort()).toEqual(Object.keys(workflows).sort());
});

test("a history that today's workflows would not have written is noticed", async () => {
  const altered = read("settlement.json").replaceAll('"settleShard"', '"somethingElse"');
  const [result] = await replay([altered]);
  expect(result?.error?.message).toMatch(/nondeterminism/i);
});
