import type { IncomingMessage, ServerResponse } from "node:http";
import { type Refusal, refuse } from "../base/errors.js";
import { newId } from "../base/ids.js";
import { createLine, type Line } from "../base/line.js";
import type { Log } from "../base/log.js";
import { SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import { CHAT } from "../inference/chat.js";
import { EMBEDDINGS, parseEmbeddingRequest } from "../inference/embeddings.js";
import type { Inference } from "../inference/inference.js";
import type { Kind } from "../inference/kind.js";
import { type Model, OWNED_BY } from "../inference/models.js";
import type { ChatRequest } from "../inference/parameters.js";
import { parseChatRequest } from "../inference/request.js";
import type { ChildCaller, Credentials } from "../keys/caller.js";
import { getChildOfCaller } from "../keys/child-keys.js";
import type { RateLimiter } from "../keys/rate-limit.js";
import { admitted, tellOpenAi } from "./admitted.js";
import { type StreamWords, sendEvents } from "./event-stream.js";
import { completeFor, streamFor } from "./inferring.js";
import { keyBody } from "./openai-key.js";
import { OPENAI_WORDS } from "./openai-stream.js";
import { errorAnswer, readBody, refuseWith, sendJson } from "./wire/answer.js";

export interface OpenAiDeps {
  inference: Inference;
  limiter: RateLimiter;
  sql: Sql;
  /** Tells whose `gc-` key a bearer header has. @throws invalid_api_key, wrong_key_kind */
  requireChild(shown: Credentials): Promise<ChildCaller>;
  log: Log;
}

/** What differs between callers of /v1 and of /api/v1: the words, never what is done. */
export interface Words {
  chat: Kind<ChatRequest>;
  /** @throws invalid_request_error */
  readChat(body: Buffer): ChatRequest;
  model(model: Model): object;
  /** @throws invalid_request_error by the name of a query's parameter */
  models(models: Model[], query: URLSearchParams): object;
  refusal(refusal: Refusal): { status: number; body: object };
  stream(asked: ChatRequest): StreamWords;
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

interface Spoken extends Visit {
  words: Words;
}

export type Serve<V = Visit> = (deps: OpenAiDeps, visit: V, caller: ChildCaller) => Promise<void>;

export interface Route<V = Visit> {
  verb: "GET" | "POST";
  serve: Serve<V>;
}

export const MAX_BODY_BYTES = 10 * 1024 * 1024;
export const MODELS = "/v1/models/";

/**
 * The plain-HTTP doors of inference in OpenAI's dialect: chat completions, embeddings, models, and the
 * caller's own key; under /v1 and the same under /api/v1. Callers show a `gc-` key as bearer or in
 * `x-api-key`.
 *
 * @param openRouter how callers under /api/v1 are spoken to
 */
export function createOpenAiDoor(deps: OpenAiDeps, openRouter: Words): Door {
  return async (request, response, path) => {
    const isOurs = !path.startsWith("/api/");
    const route = routeOf(isOurs ? path : path.slice("/api".length));
    if (route === undefined) return false;
    const requestId = newId();
    const words = isOurs ? OPENAI : openRouter;
    try {
      if (request.method !== route.verb) {
        response.setHeader("allow", route.verb);
        throw refuse("method_not_allowed");
      }
      const caller = await deps.requireChild(authorizationOf(request));
      await route.serve(deps, { request, response, requestId, words }, caller);
    } catch (error) {
      refuseWith(response, error, requestId, deps.log, words.refusal);
    }
    return true;
  };
}

function routeOf(path: string): Route<Spoken> | undefined {
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

/** The key that a request shows, as bearer or in `x-api-key`, and where from. */
export function authorizationOf({ headers, socket }: IncomingMessage): Credentials {
  const key = headers["x-api-key"];
  const bare = headers.authorization === undefined && key !== undefined;
  return {
    authorization: bare ? `Bearer ${key}` : headers.authorization,
    ip: socket.remoteAddress ?? "unknown",
  };
}

const chat: Serve<Spoken> = admitted(tellOpenAi, async ({ inference, log }, visit, caller) => {
  const { request, response, requestId, words } = visit;
  const asked = words.readChat(await readBody(request, response, MAX_BODY_BYTES));
  const asking = { request, response, requestId, caller, line: lineOf(response) };
  if (!asked.stream) {
    return sendText(response, await completeFor(inference, asking, words.chat, asked), requestId);
  }
  const events = streamFor(inference, asking, words.chat, asked);
  await sendEvents(events, { response, words: words.stream(asked), requestId, log });
});

const embeddings: Serve = admitted(tellOpenAi, async ({ inference }, visit, caller) => {
  const { request, response, requestId } = visit;
  const asked = parseEmbeddingRequest(await readBody(request, response, MAX_BODY_BYTES));
  const asking = { request, response, requestId, caller, line: lineOf(response) };
  sendText(response, await completeFor(inference, asking, EMBEDDINGS, asked), requestId);
});

const models: Serve<Spoken> = async ({ inference }, visit, caller) => {
  const { request, response, requestId, words } = visit;
  const body = words.models(await inference.models(caller, "openai"), queryOf(request));
  sendJson(response, 200, body, requestId);
};

const model =
  (name: string): Serve<Spoken> =>
  async ({ inference }, { response, requestId, words }, caller) => {
    const id = decoded(name);
    const served = await inference.models(caller, "openai");
    const found = served.find((each) => each.id === id);
    if (!found) throw refuse("model_not_found");
    sendJson(response, 200, words.model(found), requestId);
  };

const ownKey: Serve = async ({ inference, sql }, { response, requestId }, caller) => {
  const key = await getChildOfCaller(sql, caller);
  const models = await inference.namesOnList(key);
  sendJson(response, 200, keyBody({ ...key, models }), requestId);
};

export const modelBody = ({ id, since, contextTokens, maxOutputTokens }: Model) => ({
  id,
  object: "model",
  created: Math.floor(since.getTime() / SECOND),
  owned_by: OWNED_BY,
  context_tokens: contextTokens,
  max_output_tokens: maxOutputTokens,
});

const OPENAI: Words = {
  chat: CHAT,
  readChat: parseChatRequest,
  model: modelBody,
  models: (all) => ({ object: "list", data: all.map(modelBody) }),
  refusal: errorAnswer,
  stream: () => OPENAI_WORDS,
};

/** What stands behind the path. */
export const queryOf = ({ url = "" }: IncomingMessage): URLSearchParams =>
  new URLSearchParams(url.split("?").slice(1).join("?"));

/** Aborts when the caller closes its connection before its answer is out. */
export function lineOf(response: ServerResponse): Line {
  const line = createLine();
  if (response.destroyed) line.abort(hungUp());
  response.once("close", () => {
    if (!response.writableFinished) line.abort(hungUp());
  });
  return line;
}

/** As `sendJson`, for the hot path: node sends a text and its headers in one piece. */
export function sendText(response: ServerResponse, json: string, requestId: string): void {
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
