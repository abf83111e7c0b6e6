import type { IncomingMessage, ServerResponse } from "node:http";
import type { Redis } from "ioredis";
import { refuse } from "../base/errors.js";
import { newId } from "../base/ids.js";
import type { Log } from "../base/log.js";
import type { Sql } from "../db/sql.js";
import type { Delivery } from "../holds/delivery/deliver.js";
import type { Lease } from "../holds/lease.js";
import type { UpstreamStanding, Upstreams } from "../inference/upstreams.js";
import type { Authenticator } from "./auth.js";
import { authorizationOf } from "./door.js";
import type { Metrics } from "./metrics.js";
import { sendError, sendJson } from "./wire/answer.js";

/** Something that this program needs, or does with less well without. */
export interface Dependency {
  name: string;
  ready: boolean;
  required: boolean;
  detail: string;
}

export interface Health {
  ready: boolean;
  dependencies: Dependency[];
}

interface Standing {
  sql: Sql;
  redis: Redis | undefined;
  upstreams: Pick<Upstreams, "standing">;
  lease: Lease;
  delivery: Pick<Delivery, "problem">;
}

/** What this process stands on. Cheap: probes ask often. */
export function createHealth({ sql, redis, upstreams, lease, delivery }: Standing) {
  return async (): Promise<Health> => {
    const dependencies = [
      await postgres(sql, lease),
      redisState(redis),
      ...upstreamStates(upstreams.standing()),
      spoolState(delivery),
    ];
    return { ready: dependencies.every((it) => it.ready || !it.required), dependencies };
  };
}

async function postgres(sql: Sql, lease: Lease): Promise<Dependency> {
  const name = "postgres";
  const problem = lease.problem();
  if (problem) return { name, ready: false, required: true, detail: problem };
  try {
    await sql`select 1`;
    return { name, ready: true, required: true, detail: "answers" };
  } catch {
    return { name, ready: false, required: true, detail: "Postgres does not answer" };
  }
}

function redisState(redis: Redis | undefined): Dependency {
  const ready = redis?.status === "ready";
  const detail = ready
    ? "answers"
    : redis
      ? "does not answer: each gateway counts rate limits for itself"
      : "not configured: this gateway counts rate limits for itself";
  return { name: "redis", ready, required: false, detail };
}

/** Not required: accounts, keys and holds of backends go on without. */
function upstreamStates(upstreams: UpstreamStanding[]): Dependency[] {
  const common = { required: false };
  if (upstreams.length === 0) {
    return [{ ...common, name: "upstream", ready: false, detail: "none is configured" }];
  }
  return upstreams.map(({ name, state, inFlight, troubles }) => {
    const told = troubles.map(({ model, state: circuit, problem }) => {
      return `${model ?? "whatever the model"}: ${inWords[circuit]}, for ${problem}`;
    });
    const detail = [`circuit ${inWords[state]}`, `${inFlight} in flight`, ...told].join("; ");
    const ready = troubles.every(({ model }) => model !== undefined);
    return { ...common, name: `upstream ${name}`, ready, detail };
  });
}

const inWords = { closed: "closed", half_open: "half open", open: "open" } as const;

/** Needed only while Postgres and Temporal are away, so requests go on without. */
function spoolState(delivery: Pick<Delivery, "problem">): Dependency {
  const problem = delivery.problem();
  const detail = problem ? `cannot be written: ${problem}` : "can be written";
  return { name: "spool", ready: problem === undefined, required: false, detail };
}

interface HealthDoor {
  health: () => Promise<Health>;
  metrics: Metrics;
  authenticator: Authenticator;
  /** In production, what names units and dependencies is for the operator only. */
  production: boolean;
  log: Log;
}

/**
 * GET /healthz, /readyz and /metrics.
 *
 * @returns false where the path is none of these
 */
export function createHealthDoor(door: HealthDoor) {
  const mayLook = async (request: IncomingMessage): Promise<boolean> => {
    if (!door.production) return true;
    return door.authenticator.requireAdmin(authorizationOf(request)).then(
      () => true,
      () => false,
    );
  };
  const serve = async (
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    requestId: string,
  ): Promise<void> => {
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.setHeader("allow", "GET");
      throw refuse("method_not_allowed");
    }
    if (path === "/healthz") return sendJson(response, 200, { status: "ok" }, requestId);
    if (path === "/readyz") {
      const { ready, dependencies } = await door.health();
      const status = { status: ready ? "ready" : "not_ready" };
      const details = (await mayLook(request)) ? { dependencies: dependencies.map(asJson) } : {};
      return sendJson(response, ready ? 200 : 503, { ...status, ...details }, requestId);
    }
    if (door.production) await door.authenticator.requireAdmin(authorizationOf(request));
    const text = await door.metrics.text();
    response.writeHead(200, { "content-type": door.metrics.contentType }).end(text);
  };
  return (request: IncomingMessage, response: ServerResponse, path: string): boolean => {
    if (path !== "/healthz" && path !== "/readyz" && path !== "/metrics") return false;
    const requestId = newId();
    serve(request, response, path, requestId).catch((error: unknown) =>
      sendError(response, error, requestId, door.log),
    );
    return true;
  };
}

const asJson = ({ name, ready, required, detail }: Dependency) => ({
  name,
  ready,
  required,
  detail,
});
