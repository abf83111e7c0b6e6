import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleWorkflowCode, DefaultLogger } from "@temporalio/worker";

const WORKFLOWS = fileURLToPath(new URL("../../workflows/", import.meta.url));
const SDK = createRequire(import.meta.url)("@temporalio/worker/package.json") as {
  version: string;
};

/** The version of this program with that of its workflows: `0.1.0+1f3a5c7e`. */
export const versionOf = (program: string, codePath: string): string =>
  `${program}+${basename(codePath).slice(0, 8)}`;

/**
 * Bundles the workflows' code for a worker, or takes the bundle of an earlier start where nothing
 * has changed since. It is never minified (that renames workflows) and keeps its inline source map
 * (a worker hangs without).
 *
 * @param dataDir folder of ours that survives a restart
 * @returns path of the bundle
 */
export async function workflowBundle(dataDir: string): Promise<string> {
  const folder = join(dataDir, "workflow-bundle");
  const path = join(folder, `${await fingerprint()}.js`);
  if (await exists(path)) return path;

  const logger = new DefaultLogger("ERROR");
  const { code } = await bundleWorkflowCode({ workflowsPath: join(WORKFLOWS, "index.ts"), logger });
  await mkdir(folder, { recursive: true });
  const draft = `${path}.${randomBytes(4).toString("hex")}`;
  await writeFile(draft, code);
  await rename(draft, path);
  return path;
}

async function fingerprint(): Promise<string> {
  const hash = createHash("sha256").update(`${SDK.version} ${process.version}`);
  const names = (await readdir(WORKFLOWS)).filter((name) => name.endsWith(".ts")).sort();
  for (const name of names) {
    hash.update(`\n${name}\n`).update(await readFile(join(WORKFLOWS, name)));
  }
  return hash.digest("hex").slice(0, 24);
}

async function exists(path: string): Promise<boolean> {
  try {
    return (await readFile(path)).length > 0;
  } catch {
    return false;
  }
}
