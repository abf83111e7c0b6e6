import type { IncomingMessage, ServerResponse } from "node:http";
import type { Redis } from "ioredis";
import { refuse } from "../base/errors.js";
import { newId } from "../base/ids.js";
import type { Log } from "../base/log.js";
import type { Sql } from "../db/sql.js";
import type { Delivery } from "../holds/delivery/deliver.js";
import type { Lease } from "../holds/lease.js";
import type { Authenticator } from "./auth.js";
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
  /** How many are configured. */
  upstreams: number;
  lease: Lease;
  delivery: Pick<Delivery, "problem">;
}

/** What this process stands on. Cheap: probes ask often. */
export function createHealth({ sql, redis, upstreams, lease, delivery }: Standing) {
  return async (): Promise<Health> => {
    const dependencies = [
      await postgres(sql, lease),
      redisState(redis),
      upstreamState(upstreams),
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

function upstreamState(upstreams: number): Dependency {
  const detail = upstreams === 0 ? "none is configured" : `${upstreams} configured`;
  return { name: "upstream", ready: upstreams > 0, required: false, detail };
}

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
    const { authorization } = request.headers;
    return door.authenticator.requireAdmin(authorization).then(
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
    if (door.production) await door.authenticator.requireAdmin(request.headers.authorization);
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
