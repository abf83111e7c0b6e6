import { createApp } from "./app.js";
import type { Config } from "./base/config.js";
import type { Log } from "./base/log.js";
import { SECOND } from "./base/time.js";
import { listenGrpc } from "./edge/wire/grpc.js";
import { listen } from "./edge/wire/listen.js";

/** Requests that run when we are told to stop may take this long to end. */
const GRACE = 30 * SECOND;

export interface Gateway {
  /** Base URL of REST, inference, Connect, gRPC-web and gRPC. */
  http: string;
  /** host:port of gRPC alone. */
  grpc: string;
  /** Takes nothing new, lets what runs end, then lets go of everything. */
  close(): Promise<void>;
}

/**
 * Starts a gateway on both its ports. In development it listens on this machine only.
 *
 * @throws Error that names the port and its variable where one is taken
 */
export async function startGateway(
  config: Config,
  env: Record<string, string | undefined>,
  log: Log,
): Promise<Gateway> {
  const app = await createApp(config, env, log);
  const host = config.production ? "0.0.0.0" : "127.0.0.1";
  try {
    const http = await listen({ port: config.port, host, variable: "PORT", handler: app.handle });
    const grpc = await listenGrpc({ services: app.services, log, port: config.grpcPort, host });
    return {
      http: `http://127.0.0.1:${http.port}`,
      grpc: `127.0.0.1:${grpc.port}`,
      async close() {
        await Promise.all([http.close(GRACE), grpc.close(GRACE)]);
        await app.close();
      },
    };
  } catch (error) {
    await app.close();
    throw error;
  }
}
