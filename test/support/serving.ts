import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer, connect as dial, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KEYTOLL } from "../../src/dev/processes.js";
import { environment, restClient } from "./live-gateway.js";

export type Serving = Awaited<ReturnType<typeof startServing>>;

/** A gateway as a process of its own, as an operator runs it. */
export async function startServing(databaseUrl: string, upstreamUrl: string, more: object = {}) {
  const { PATH, HOME } = process.env;
  const KEYTOLL_DATA_DIR = mkdtempSync(join(tmpdir(), "keytoll-serving-"));
  const child: ChildProcess = fork(KEYTOLL, ["serve"], {
    execArgv: [],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: {
      PATH,
      HOME,
      KEYTOLL_DATA_DIR,
      KEYTOLL_LOG_LEVEL: "silent",
      ...environment(databaseUrl, upstreamUrl),
      ...more,
    },
  });
  const [{ ready }] = (await once(child, "message")) as [{ ready: { http: string } }];
  return {
    ...restClient(ready.http),
    http: ready.http,
    /** In order, unless another signal is given. */
    async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM") {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "exit");
      child.kill(signal);
      await ended;
      rmSync(KEYTOLL_DATA_DIR, { recursive: true, force: true });
    },
  };
}

/**
 * Stands between a gateway and Postgres, and can keep from it that keys have changed: the
 * connection that listens for it stays open and brings nothing any more, as one does whose network
 * is gone.
 */
export async function startDeafLine(databaseUrl: string) {
  const target = new URL(databaseUrl);
  const lines = new Set<Socket>();
  const ears = new Set<Socket>();
  let deaf = false;
  const server = createServer((near) => {
    const far = dial(Number(target.port), target.hostname);
    for (const end of [near, far]) {
      lines.add(end);
      end.on("error", () => {});
      end.on("close", () => [near, far].map((each) => each.destroy()));
    }
    near.on("data", (bytes) => {
      if (bytes.includes('listen "key_changed"')) ears.add(near);
      far.write(bytes);
    });
    far.on("data", (bytes) => {
      if (!(deaf && ears.has(near))) near.write(bytes);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = new URL(databaseUrl);
  url.port = String((server.address() as AddressInfo).port);
  return {
    url: url.href,
    /** From now on the gateway hears of no change. @returns how many connections fell silent */
    deafen(): number {
      deaf = true;
      return ears.size;
    },
    async stop() {
      const closed = once(server, "close");
      server.close();
      for (const line of lines) line.destroy();
      await closed;
    },
  };
}
