import { startVitest } from "vitest/node";

// node --import tsx test/workflows/record.ts: records the histories anew, for a workflow that is
// new or had to change. A change that breaks the replay of a recorded history needs `patched()`,
// not a new record.

const run = await startVitest("test", [], {
  run: true,
  include: ["test/workflows/histories.ts"],
});
await run.close();
