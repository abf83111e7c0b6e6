import { startVitest } from "vitest/node";

// node --import ./src/typescript.mjs test/workflows/record.ts [name ...]: records the histories that are missing, or
// those named anew. A change that breaks the replay of a recorded history needs `patched()`, not a
// new record: see workflows/README.md.

const run = await startVitest("test", [], {
  run: true,
  include: ["test/workflows/histories.ts"],
  provide: { record: process.argv.slice(2) },
});
await run.close();
