import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { now, SECOND } from "../base/time.js";
import { runEverything } from "../dev/dev.js";
import { whenRunnerEnds } from "../dev/runner.js";
import type { Command } from "./command.js";

const usage = `Usage: npm start

Finds or starts Postgres, Temporal with its UI, and Redis where it is installed; migrates; starts
the gateway, the worker and, where no upstream is configured, a demo upstream. Ctrl-C stops all of
it, a second Ctrl-C at once. The data stays for the next start.

  PORT              8080   REST, inference, Connect, gRPC-web, gRPC (any port 0: a free one)
  GRPC_PORT         8081   gRPC
  TEMPORAL_UI_PORT  8233   Temporal's UI
  KEYTOLL_DATA_DIR         data, logs and generated secrets, default .keytoll
  DATABASE_URL, TEMPORAL_ADDRESS, REDIS_URL      use these instead of starting our own
  KEYTOLL_UPSTREAM_URL and _KEY, or KEYTOLL_UPSTREAMS_FILE      where inference goes`;

/**
 * npm passes a terminal's Ctrl-C on, so that it arrives twice: what follows at once is the same
 * one.
 */
const SAME_PRESS = SECOND;

export const command: Command = {
  summary: "everything on this machine, for development (what `npm start` runs)",
  usage,
  run: async (args) => {
    parseArgs({ args, options: {} });
    const stop = new AbortController();
    const stopNow = new AbortController();
    listenForEnd(stop, stopNow);
    await runEverything({
      config: readConfig(process.env),
      env: process.env,
      say: (line) => console.log(line),
      stopping: stop.signal,
      stoppingNow: stopNow.signal,
    });
    return 0;
  },
};

function listenForEnd(stop: AbortController, stopNow: AbortController): void {
  let first: number | undefined;
  const wanted = () => {
    if (first === undefined) {
      first = now();
      console.log("stopping (again to stop at once) ...");
      stop.abort();
    } else if (now() - first > SAME_PRESS) {
      stopNow.abort();
    }
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, wanted);
  whenRunnerEnds(wanted);
}
