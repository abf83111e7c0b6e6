import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

interface Source {
  /** From the root: src/keys/rpc.ts */
  path: string;
  text: string;
}

function sourcesBelow(folder: string): Source[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .map((name) => join(folder, name))
    .filter((path) => path.endsWith(".ts") && !path.startsWith("src/gen/"))
    .map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));
}

const sources = [...sourcesBelow("src"), ...sourcesBelow("workflows")];

/** Rooms from the bottom to the top: a room imports from rooms below it, and from its own. */
const FLOORS: readonly (readonly string[])[] = [
  ["src/gen"],
  ["src/base"],
  ["src/db", "src/temporal"],
  ["src/idempotency"],
  ["src/pricing", "src/ledger", "src/webhooks"],
  ["src/keys", "src/accounts"],
  ["src/holds", "src/usage"],
  ["src/inference"],
  ["src/edge"],
  ["src/check", "src/dev", "src/commands", "src"],
];

const roomOf = (path: string): string => {
  const [top = "", room = ""] = path.split("/");
  return top === "workflows" || room.endsWith(".ts") ? top : `${top}/${room}`;
};
const floorOf = (path: string): number => FLOORS.findIndex((rooms) => rooms.includes(roomOf(path)));

interface Import {
  from: string;
  to: string;
  /** Types cost nothing at run time. */
  typeOnly: boolean;
}

function importsOf({ path, text }: Source): Import[] {
  const statements = text.matchAll(/^(?:import|export)\s+(type\s)?[^;]*?from "(\.[^"]+)";/gms);
  return [...statements].map(([, type, to = ""]) => ({
    from: path,
    to: relative(ROOT, resolve(ROOT, dirname(path), to)).replace(/\.js$/, ".ts"),
    typeOnly: type !== undefined,
  }));
}

const imports = sources.flatMap(importsOf);

test("imports run one way: no room knows a room above it", () => {
  const upward = imports.filter(({ from, to }) => {
    if (roomOf(from) === roomOf(to) || roomOf(from) === "workflows") return false;
    if (roomOf(to) === "workflows") return false;
    return floorOf(to) > floorOf(from);
  });
  expect(
    upward.map(({ from, to }) => `${from} imports ${to}: move what both need further down`),
  ).toEqual([]);
});

test("every room of the house stands in the table of floors", () => {
  const homeless = sources.filter(({ path }) => roomOf(path) !== "workflows" && floorOf(path) < 0);
  expect(homeless.map(({ path }) => path)).toEqual([]);
});

test("workflows import only themselves and @temporalio/workflow", () => {
  const foreign = sourcesBelow("workflows").flatMap(({ path, text }) =>
    [...text.matchAll(/from "([^"]+)"/g)]
      .map(([, from = ""]) => from)
      .filter((from) => !from.startsWith("./") && !from.startsWith("@temporalio/"))
      .map((from) => `${path} imports ${from}`),
  );
  expect(foreign).toEqual([]);
});

test("a slice is entered by its doors: its store and its pure helpers are its own", () => {
  const slices = FLOORS.slice(3, 8).flat();
  const broken = imports.filter(
    ({ from, to }) =>
      slices.includes(roomOf(to)) &&
      roomOf(from) !== roomOf(to) &&
      roomOf(from) !== "src" &&
      /\/(?:\w+-)?store(?:-\w+)?\.ts$/.test(to),
  );
  expect(broken.map(({ from, to }) => `${from} imports ${to}: ask the slice's door`)).toEqual([]);
});

interface Ban {
  pattern: RegExp;
  /** Where it may stand. */
  except: RegExp;
  instead: string;
}

const BANS: Ban[] = [
  {
    pattern: /\bprocess\.env\b/,
    except: /^src\/(?:main|commands\/[\w-]+|dev\/[\w-]+)\.ts$/,
    instead: "take a Config, read once at the top by readConfig",
  },
  {
    pattern: /\bDate\.now\(|new Date\(\)/,
    except: /^(?:src\/base\/time|workflows\/.*)\.ts$/,
    instead: "now() of base/time",
  },
  {
    pattern: /\bprocess\.exit\(/,
    except: /^src\/(?:main|dev\/guardian-main)\.ts$/,
    instead: "return an exit code",
  },
  {
    pattern: /\bparseFloat\(|\.toFixed\(|Number\([^)]*(?:ngonka|amount|balance)/i,
    except: /^src\/dev\/progress\.ts$/,
    instead: "bigint ngonka, and base/money for words",
  },
  {
    pattern: /(?<![\w.])fetch\(/,
    except: /^src\/dev\//,
    instead: "undici: fetch costs six times as much",
  },
  { pattern: /: any\b|\bas any\b|@ts-(?:ignore|expect-error)/, except: /^$/, instead: "a type" },
  { pattern: /\b(?:TODO|FIXME|XXX)\b/, except: /^$/, instead: "do it, or leave it" },
  { pattern: /^export \* /m, except: /^workflows\/index\.ts$/, instead: "name what is exported" },
  {
    pattern: /^(?:export )?(?:abstract )?class (?!Refusal\b)/m,
    except: /^$/,
    instead: "functions and closures",
  },
];

test("banned calls stand nowhere", () => {
  const found = sources.flatMap(({ path, text }) =>
    BANS.filter(({ pattern, except }) => pattern.test(text) && !except.test(path)).map(
      ({ pattern, instead }) => `${path} has ${pattern.source}; instead: ${instead}`,
    ),
  );
  expect(found).toEqual([]);
});

test("the SQL of a slice stands in its stores", () => {
  const slices = FLOORS.slice(3, 8).flat();
  const elsewhere = sources.filter(
    ({ path, text }) =>
      slices.includes(roomOf(path)) &&
      !/store/.test(path) &&
      /(?:sql|tx|db)(?:<[^`]*>)?`\s*(?:select|insert|update|delete|with)\b/i.test(text),
  );
  expect(elsewhere.map(({ path }) => path)).toEqual([]);
});

test("files and functions stay short enough to be read at once", () => {
  const long = sources.filter(({ text }) => text.split("\n").length > 300);
  expect(long.map(({ path }) => path)).toEqual([]);
});
