import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { createConnection, createServer, type Server } from "node:net";
import { join } from "node:path";

/** A folder that no other process uses while this one lives. */
export interface OwnFolder {
  path: string;
  /** Lets go of it, and removes it where `empty`. */
  release(empty: boolean): Promise<void>;
}

/** The owner listens on it. The system closes it however the owner ends, a kill -9 included. */
const SIGN_OF_LIFE = "alive";
/** Of a socket's path, on the system that allows the fewest. */
const LONGEST_PATH = 103;

/**
 * Makes a folder of our own below `root`. It appears under its name only when it can be seen to
 * have an owner, so that nobody takes it for abandoned.
 *
 * @throws Error where it cannot be made, or where the path is too long for a socket
 */
export async function makeOwnFolder(root: string, name: string): Promise<OwnFolder> {
  const [path, draft] = [join(root, name), join(root, `.${name}`)];
  if (Buffer.byteLength(join(draft, SIGN_OF_LIFE)) > LONGEST_PATH) {
    throw new Error(`${root}: the path is too long, choose a shorter KEYTOLL_DATA_DIR`);
  }
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { recursive: true, mode: 0o700 });
  const server = await listen(join(draft, SIGN_OF_LIFE));
  await rename(draft, path);
  await flushFolder(root);
  return {
    path,
    async release(empty) {
      if (empty) await rm(path, { recursive: true, force: true });
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** @returns paths of the folders below `root` whose owner is gone */
export async function abandonedFolders(root: string): Promise<string[]> {
  const names = await readdir(root).catch(() => []);
  const paths = names.filter((name) => !name.startsWith(".")).map((name) => join(root, name));
  const owned = await Promise.all(paths.map((path) => hasOwner(join(path, SIGN_OF_LIFE))));
  return paths.filter((_, i) => !owned[i]);
}

/** Makes what was created or removed in a folder survive a power failure. */
export async function flushFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function listen(path: string): Promise<Server> {
  const server = createServer((caller) => caller.destroy());
  server.unref();
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => resolve(server));
  });
}

function hasOwner(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    const done = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once("connect", () => done(true));
    socket.once("error", (error: NodeJS.ErrnoException) =>
      done(error.code !== "ECONNREFUSED" && error.code !== "ENOENT"),
    );
  });
}
