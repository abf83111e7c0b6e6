import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleWorkflowCode, DefaultLogger, type ReplayResult, Worker } from "@temporalio/worker";
import { expect, test } from "vitest";
import { workflowBundle } from "../../src/temporal/bundle.js";
import { installRuntime } from "../../src/temporal/run.js";
import * as workflows from "../../workflows/index.js";
import { DATA_DIR, quietLog } from "./world.js";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const FOLDER = new URL("./histories/", import.meta.url);
const names = readdirSync(FOLDER).filter((name) => name.endsWith(".json"));
const read = (name: string): string => readFileSync(new URL(name, FOLDER), "utf8");

installRuntime(quietLog);

async function replay(histories: string[], code?: string): Promise<ReplayResult[]> {
  const bundle = code === undefined ? { codePath: await workflowBundle(DATA_DIR) } : { code };
  const workflow = { workflowBundle: bundle };
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

/** Changes that break what is under way, as somebody might make them. */
const BREAKS = [
  {
    change: "a pause before the first look",
    ...{ file: "settlement.ts", history: "settlement.json" },
    from: "listen(at);",
    to: 'listen(at);\n  await condition(() => false, 1_000, { summary: "new" });',
  },
  {
    change: "another activity in place of the first",
    ...{ file: "reconcile.ts", history: "reconcile.json" },
    from: "await proveBooks(day);",
    to: "await examineBacklog(day);",
  },
  {
    change: "a step that is left out",
    ...{ file: "limit-reset.ts", history: "limit-reset.json" },
    from: "await rollCounters(ref);",
    to: "",
  },
];

test.each(BREAKS)("$change, without patched(), fails the replay of $history", async (it) => {
  const [result] = await replay([read(it.history)], await bundleOf(it));
  expect(result?.error?.name).toBe("DeterminismViolationError");
  expect(result?.error?.message).toMatch(/nondeterminism/i);
});

test("the same change behind patched() goes on with what was recorded before it", async () => {
  const [first] = BREAKS;
  const code = await bundleOf({
    ...{ file: "settlement.ts", from: "listen(at);" },
    to: `listen(at);\n  if (patched("slower-start")) ${first?.to.split("\n")[1]?.trim()}`,
    imports: "patched",
  });
  expect((await replay([read("settlement.json")], code)).map((it) => it.error)).toEqual([
    undefined,
  ]);
});

interface Change {
  file: string;
  from: string;
  to: string;
  /** What it needs of the SDK. */
  imports?: string;
}

/** A bundle of a copy of the workflows with one change. */
async function bundleOf({ file, from, to, imports }: Change): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "keytoll-changed-"));
  try {
    cpSync(join(ROOT, "workflows"), join(folder, "workflows"), { recursive: true });
    cpSync(join(ROOT, "package.json"), join(folder, "package.json"));
    symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
    const path = join(folder, "workflows", file);
    const before = readFileSync(path, "utf8");
    expect(before).toContain(from);
    const head = imports ? `import { ${imports} } from "@temporalio/workflow";\n` : "";
    writeFileSync(path, head + before.replace(from, to));
    const logger = new DefaultLogger("ERROR");
    const workflowsPath = join(folder, "workflows", "index.ts");
    return (await bundleWorkflowCode({ workflowsPath, logger })).code;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
