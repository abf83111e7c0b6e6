// The command line: node src/keytoll.mjs serve
// Compiles this project where it has changed since, and runs it. Without the compiler and the maps
// back to the source a process takes 100 MB less, and starts sooner.
import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { OPTIONS } from "./swc.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** Below node_modules, so that what is compiled finds its packages. */
const CACHE = join(ROOT, "node_modules", ".cache", "keytoll");
const WEEK = 7 * 86_400_000;

const files = ["package.json", ...below("src"), ...below("workflows")].map((path) => ({
  path,
  bytes: readFileSync(join(ROOT, path)),
}));
const compiled = join(CACHE, fingerprint());
if (existsSync(compiled) || (await compile())) {
  await import(pathToFileURL(join(compiled, "src/main.js")).href);
} else {
  await import("./typescript.mjs");
  await import("./main.ts");
}

function below(folder) {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, path, name }) => join(parentPath ?? path, name).slice(ROOT.length))
    .sort();
}

function fingerprint() {
  const hash = createHash("sha256").update(JSON.stringify(OPTIONS));
  for (const { path, bytes } of files) hash.update(`\n${path} ${bytes.length}\n`).update(bytes);
  return hash.digest("hex").slice(0, 24);
}

/**
 * All at once or not at all: several processes may do it at the same time. Gives false where this
 * user may not write there: then the source itself is run.
 */
async function compile() {
  const { transform } = await import("@swc/core");
  const scripts = await Promise.all(
    files
      .filter(({ path }) => path.endsWith(".ts"))
      .map(async ({ path, bytes }) => {
        const options = { ...OPTIONS, filename: join(ROOT, path) };
        const { code } = await transform(bytes.toString(), options);
        return { path: path.replace(/ts$/, "js"), code };
      }),
  );
  const draft = `${compiled}.${randomBytes(4).toString("hex")}`;
  try {
    write(draft, scripts);
    renameSync(draft, compiled);
    forgetOld();
  } catch {
    if (existsSync(draft)) rmSync(draft, { recursive: true, force: true });
  }
  return existsSync(compiled);
}

function write(folder, scripts) {
  for (const { path } of files) {
    const target = join(folder, path);
    mkdirSync(dirname(target), { recursive: true });
    // What is read and not run stays what it is
    symlinkSync(relative(dirname(target), join(ROOT, path)), target);
  }
  for (const { path, code } of scripts) writeFileSync(join(folder, path), code);
}

/** Whoever still runs what was compiled before may yet read of it. */
function forgetOld() {
  for (const name of readdirSync(CACHE)) {
    const path = join(CACHE, name);
    const old = statSync(path, { throwIfNoEntry: false });
    if (old && Date.now() - old.mtimeMs > WEEK) rmSync(path, { recursive: true, force: true });
  }
}
