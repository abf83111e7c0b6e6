import type { IncomingMessage, ServerResponse } from "node:http";
import { refuse } from "../base/errors.js";
import { newId } from "../base/ids.js";
import type { Log } from "../base/log.js";
import { SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import { admit } from "../inference/admit.js";
import { CHAT } from "../inference/chat.js";
import { EMBEDDINGS, parseEmbeddingRequest } from "../inference/embeddings.js";
import type { Inference } from "../inference/inference.js";
import { type Model, OWNED_BY } from "../inference/models.js";
import { parseChatRequest } from "../inference/request.js";
import type { ChildCaller } from "../keys/caller.js";
import { getChildOfCaller } from "../keys/child-keys.js";
import type { RateAnswer, RateLimiter } from "../keys/rate-limit.js";
import { sendEvents } from "./event-stream.js";
import { completeFor, streamFor } from "./inferring.js";
import { keyBody } from "./openai-key.js";
import { OPENAI_WORDS } from "./openai-stream.js";
import { readBody, sendError, sendJson } from "./wire/answer.js";

export interface OpenAiDeps {
  inference: Inference;
  limiter: RateLimiter;
  sql: Sql;
  /** Tells whose `gc-` key a bearer header has. @throws invalid_api_key, wrong_key_kind */
  requireChild(authorization: string | undefined): Promise<ChildCaller>;
  log: Log;
}

/**
 * Serves one request if its path is one of this door's.
 *
 * @param path without the query
 * @returns false where it is not, and nothing was done
 */
export type Door = (
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
) => Promise<boolean>;

export interface Visit {
  request: IncomingMessage;
  response: ServerResponse;
  requestId: string;
}

export type Serve = (deps: OpenAiDeps, visit: Visit, caller: ChildCaller) => Promise<void>;

export interface Route {
  verb: "GET" | "POST";
  serve: Serve;
}

export const MAX_BODY_BYTES = 10 * 1024 * 1024;
export const MODELS = "/v1/models/";

/**
 * The plain-HTTP doors of inference in OpenAI's dialect: chat completions, embeddings, models, and the
 * caller's own key; under /v1 and the same under /api/v1. Callers show a `gc-` key as bearer or in
 * `x-api-key`.
 */
export function createOpenAiDoor(deps: OpenAiDeps): Door {
  return async (request, response, path) => {
    const route = routeOf(path.startsWith("/api/") ? path.slice("/api".length) : path);
    if (route === undefined) return false;
    const requestId = newId();
    try {
      if (request.method !== route.verb) {
        response.setHeader("allow", route.verb);
        throw refuse("method_not_allowed");
      }
      const caller = await deps.requireChild(authorizationOf(request));
      await route.serve(deps, { request, response, requestId }, caller);
    } catch (error) {
      sendError(response, error, requestId, deps.log);
    }
    return true;
  };
}

function routeOf(path: string): Route | undefined {
  switch (path) {
    case "/v1/chat/completions":
      return { verb: "POST", serve: chat };
    case "/v1/embeddings":
      return { verb: "POST", serve: embeddings };
    case "/v1/models":
      return { verb: "GET", serve: models };
    case "/v1/key":
      return { verb: "GET", serve: ownKey };
    default:
      if (!path.startsWith(MODELS) || path === MODELS) return undefined;
      return { verb: "GET", serve: model(path.slice(MODELS.length)) };
  }
}

export function authorizationOf({ headers }: IncomingMessage): string | undefined {
  const key = headers["x-api-key"];
  if (headers.authorization !== undefined || key === undefined) return headers.authorization;
  return `Bearer ${key}`;
}

const chat: Serve = async ({ inference, limiter, log }, visit, caller) => {
  const { request, response, requestId } = visit;
  await admit(limiter, caller, (rate) => tellRate(response, rate));
  const asked = parseChatRequest(await readBody(request, response, MAX_BODY_BYTES));
  const asking = { request, response, requestId, caller, line: lineOf(response) };
  if (!asked.stream) {
    return sendText(response, await completeFor(inference, asking, CHAT, asked), requestId);
  }
  const events = streamFor(inference, asking, CHAT, asked);
  await sendEvents(events, { response, words: OPENAI_WORDS, requestId, log });
};

const embeddings: Serve = async ({ inference, limiter }, visit, caller) => {
  const { request, response, requestId } = visit;
  await admit(limiter, caller, (rate) => tellRate(response, rate));
  const asked = parseEmbeddingRequest(await readBody(request, response, MAX_BODY_BYTES));
  const asking = { request, response, requestId, caller, line: lineOf(response) };
  sendText(response, await completeFor(inference, asking, EMBEDDINGS, asked), requestId);
};

const models: Serve = async ({ inference }, { response, requestId }, caller) => {
  const data = (await inference.models(caller)).map(modelBody);
  sendJson(response, 200, { object: "list", data }, requestId);
};

const model =
  (name: string): Serve =>
  async ({ inference }, { response, requestId }, caller) => {
    const id = decoded(name);
    const found = (await inference.models(caller)).find((each) => each.id === id);
    if (!found) throw refuse("model_not_found");
    sendJson(response, 200, modelBody(found), requestId);
  };

const ownKey: Serve = async ({ sql }, { response, requestId }, caller) => {
  sendJson(response, 200, keyBody(await getChildOfCaller(sql, caller)), requestId);
};

const modelBody = ({ id, since, contextTokens, maxOutputTokens }: Model) => ({
  id,
  object: "model",
  created: Math.floor(since.getTime() / SECOND),
  owned_by: OWNED_BY,
  context_tokens: contextTokens,
  max_output_tokens: maxOutputTokens,
});

export function tellRate(response: ServerResponse, rate: RateAnswer): void {
  response.setHeader("x-ratelimit-limit-requests", rate.limit);
  response.setHeader("x-ratelimit-remaining-requests", rate.remaining);
  response.setHeader("x-ratelimit-reset-requests", `${rate.resetSeconds}s`);
}

/** Aborts when the caller closes its connection before its answer is out. */
export function lineOf(response: ServerResponse): AbortController {
  const line = new AbortController();
  if (response.destroyed) line.abort(hungUp());
  response.once("close", () => {
    if (!response.writableFinished) line.abort(hungUp());
  });
  return line;
}

/** As `sendJson`, for the hot path: node sends a text and its headers in one piece. */
function sendText(response: ServerResponse, json: string, requestId: string): void {
  response.writeHead(200, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(json),
    "x-request-id": requestId,
  });
  response.end(json);
}

/** The error of a broken connection, which nobody needs to hear of. */
const hungUp = () => Object.assign(new Error("the caller hung up"), { code: "ECONNRESET" });

export function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
