import { execFile } from "node:child_process";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

let folder: string;

/** A small project that is run as ours is. */
beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), "keytoll-compiled-")), "project");
  for (const name of ["src", "workflows", "node_modules"]) {
    mkdirSync(join(folder, name), { recursive: true });
  }
  for (const name of ["src/keytoll.mjs", "src/swc.mjs", "src/typescript.mjs", "package.json"]) {
    copyFileSync(join(ROOT, name), join(folder, name));
  }
  symlinkSync(join(ROOT, "node_modules/@swc"), join(folder, "node_modules/@swc"));
  write("src/main.ts", 'import { word } from "./word.js";\nconsole.log(word, process.argv[2]);');
  write(
    "src/word.ts",
    'export enum Word { hello = "hello" }\nexport const word: Word = Word.hello;',
  );
});

afterEach(() => rmSync(join(folder, ".."), { recursive: true, force: true }));

const write = (name: string, text: string) => writeFileSync(join(folder, name), text);

async function run(verb: string): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, ["src/keytoll.mjs", verb], {
    cwd: folder,
  });
  return stdout.trim();
}

const compiled = () => readdirSync(join(folder, "node_modules/.cache/keytoll"));

test("a program is compiled when its source has changed, and only then", async () => {
  expect(await run("one")).toBe("hello one");
  expect(await run("two")).toBe("hello two");
  expect(compiled()).toHaveLength(1);
  write("src/word.ts", 'export const word = "goodbye";');
  expect(await run("three")).toBe("goodbye three");
  expect(compiled()).toHaveLength(2);
});

test("processes that start at once, none of which finds it compiled, all run", async () => {
  const words = await Promise.all(["a", "b", "c", "d"].map(run));
  expect(words).toEqual(["hello a", "hello b", "hello c", "hello d"]);
  expect(compiled()).toHaveLength(1);
});

test("a program that was moved after it was compiled still runs", async () => {
  write("src/main.ts", `${SHOW}\nconsole.log(text);`);
  write("src/note.txt", "as it stands");
  expect(await run("here")).toBe("as it stands");
  const elsewhere = join(folder, "..", "elsewhere");
  renameSync(folder, elsewhere);
  folder = elsewhere;
  expect(await run("there")).toBe("as it stands");
});

const SHOW = `import { readFileSync } from "node:fs";
const text: string = readFileSync(new URL("./note.txt", import.meta.url), "utf8");`;

test("a source that cannot be compiled is named, and leaves nothing behind", async () => {
  write("src/word.ts", "export const word: string = ;");
  await expect(run("one")).rejects.toThrow(/word\.ts/);
  expect(() => compiled()).toThrow("ENOENT");
});

test("a program runs where nothing of it may be kept", async () => {
  write("node_modules/.cache", "no folder");
  expect(await run("one")).toBe("hello one");
});
