// Lets node run this project's TypeScript: node --import ./src/typescript.mjs src/main.ts
// Types are taken off and nothing is added: what keeps the names of functions for debuggers runs at
// each closure that a request makes.
import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { fileURLToPath } from "node:url";
import { isMainThread } from "node:worker_threads";
import { transform } from "@swc/core";

const OPTIONS = {
  configFile: false,
  swcrc: false,
  module: { type: "es6" },
  sourceMaps: "inline",
  jsc: {
    parser: { syntax: "typescript" },
    target: "es2022",
    transform: { verbatimModuleSyntax: true },
  },
};

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
  const { code } = await transform(await readFile(filename, "utf8"), { ...OPTIONS, filename });
  return { format: "module", shortCircuit: true, source: code };
}
