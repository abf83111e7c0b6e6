// Lets node run this project's TypeScript: node --import ./src/typescript.mjs test/bench/main.ts
// For what runs once. What runs for long is compiled first, by keytoll.mjs.
import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { fileURLToPath } from "node:url";
import { isMainThread } from "node:worker_threads";
import { transform } from "@swc/core";
import { OPTIONS } from "./swc.mjs";

// Node runs the hooks below in a thread of their own, which reads this file as well
if (isMainThread) {
  process.setSourceMapsEnabled(true);
  register(import.meta.url);
}

/** As in TypeScript, `./x.js` in one of our files means `./x.ts`. */
export function resolve(specifier, context, next) {
  const ours = context.parentURL?.endsWith(".ts") && /^\.{1,2}\/.*\.js$/.test(specifier);
  return next(ours ? specifier.replace(/js$/, "ts") : specifier, context);
}

export async function load(url, context, next) {
  if (!url.endsWith(".ts")) return await next(url, context);
  const filename = fileURLToPath(url);
  const source = await readFile(filename, "utf8");
  const { code } = await transform(source, { ...OPTIONS, filename, sourceMaps: "inline" });
  return { format: "module", shortCircuit: true, source: code };
}
