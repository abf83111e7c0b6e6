import { mkdirSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { SECOND } from "../base/time.js";
import { findOnPath } from "./find-temporal.js";
import { onFreePorts, rememberedPort } from "./ports.js";
import { lastLines, launch, type Service, stopProcess, until, type Watch } from "./processes.js";
import type { Say } from "./progress.js";

export interface Redis extends Service {
  url: string;
}

const START_TIMEOUT = 10 * SECOND;

/**
 * Starts `redis-server` where it is installed. Rate limits are all that it holds, and they are
 * about the last minute, so nothing is written to disk. Undefined, with one line of warning, where
 * it is not installed.
 *
 * @throws Error with the last log lines when it does not come up
 */
export async function startRedis({
  dataDir,
  port,
  say,
  watch,
}: {
  dataDir: string;
  /** 0: a free one, the same again at the next start where it is still free. */
  port: number;
  say: Say;
  watch?: Watch;
}): Promise<Redis | undefined> {
  const binary = findOnPath("redis-server");
  if (!binary) {
    say(
      "Redis: no redis-server on PATH and no REDIS_URL; rate limits hold within one gateway only",
    );
    return undefined;
  }
  const folder = join(dataDir, "redis");
  const log = join(dataDir, "logs", "redis.log");
  mkdirSync(folder, { recursive: true });
  mkdirSync(join(dataDir, "logs"), { recursive: true });
  const start = (at: number) => serve({ binary, folder, log, port: at, watch });
  if (port !== 0) return await start(port);
  return await onFreePorts(async () => start(await rememberedPort(join(dataDir, "redis-port"))));
}

interface Place {
  binary: string;
  folder: string;
  log: string;
  port: number;
  watch: Watch | undefined;
}

async function serve({ binary, folder, log, port, watch }: Place): Promise<Redis> {
  const server = await launch({
    file: binary,
    args: [
      ...["--bind", "127.0.0.1", "--port", String(port), "--dir", folder],
      ...["--save", "", "--appendonly", "no", "--daemonize", "no"],
    ],
    log,
    ...(watch === undefined ? {} : { watch }),
  });
  const up = await until(async () => server.hasEnded() || (await answersPing(port)), START_TIMEOUT);
  if (!up || server.hasEnded()) {
    await stopProcess(server.process, "SIGKILL", 0);
    throw new Error(`Redis did not start:\n${lastLines(log)}`);
  }
  return {
    url: `redis://127.0.0.1:${port}`,
    process: server.process,
    ended: server.ended,
  };
}

function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write("PING\r\n"));
    const done = (answered: boolean) => {
      socket.destroy();
      resolve(answered);
    };
    socket.once("data", (bytes) => done(bytes.toString().startsWith("+PONG")));
    socket.once("error", () => done(false));
    socket.setTimeout(SECOND, () => done(false));
  });
}
