import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { readOrNothing } from "./processes.js";

const HOST = "127.0.0.1";

/** True when a listener could take the port now. */
export async function isFree(port: number, host = HOST): Promise<boolean> {
  return (await listenOnce(port, host)) !== undefined;
}

/** Ports that were given out and may not be listened on yet: the system would offer them again. */
const given = new Set<number>();

/** A port that nobody listens on, and that nobody else in this process was given. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = await listenOnce(0, HOST);
    if (port === undefined) throw new Error(`no free port on ${HOST}`);
    if (given.has(port)) continue;
    given.add(port);
    return port;
  }
}

/**
 * The port in `file` where it is still free, else a new one that is remembered there: addresses
 * that someone has noted down stay good over restarts.
 */
export async function rememberedPort(file: string): Promise<number> {
  const before = Number(readOrNothing(file));
  if (Number.isInteger(before) && before > 0 && (await isFree(before))) return before;
  const port = await freePort();
  writeFileSync(file, `${port}\n`);
  return port;
}

/** How servers say in their logs that another has their port. */
const TAKEN = /address already in use/i;
const TRIES = 3;

/**
 * Starts a server that chooses its ports itself, again where another process has taken one of them
 * between choosing and listening.
 *
 * @param start chooses anew each time, and rejects with the server's last words
 */
export async function onFreePorts<Server>(start: () => Promise<Server>): Promise<Server> {
  for (let left = TRIES; ; left--) {
    try {
      return await start();
    } catch (error) {
      if (left === 1 || !TAKEN.test(String(error))) throw error;
    }
  }
}

function listenOnce(port: number, host: string): Promise<number | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(undefined));
    server.listen({ port, host, exclusive: true }, () => {
      const address = server.address();
      const taken = typeof address === "object" && address ? address.port : undefined;
      server.close(() => resolve(taken));
    });
  });
}
