import type { IncomingMessage } from "node:http";
import { refuse } from "../base/errors.js";
import { newId } from "../base/ids.js";
import { countTokens } from "../inference/anthropic/count.js";
import { MESSAGES } from "../inference/anthropic/native.js";
import { parseMessagesRequest } from "../inference/anthropic/request.js";
import { toChatRequest } from "../inference/anthropic/to-chat.js";
import { TRANSLATED_MESSAGES } from "../inference/anthropic/translated.js";
import { admitted, tellAnthropic } from "./admitted.js";
import { anthropicWords, sendAnthropicError } from "./anthropic-error.js";
import { anthropicModel, anthropicModels } from "./anthropic-models.js";
import {
  answer,
  askingOf,
  type Door,
  type DoorDeps,
  decoded,
  MAX_BODY_BYTES,
  MODELS,
  type Route,
  type Serve,
  take,
  withoutApi,
} from "./door.js";
import { readBody, sendJson } from "./wire/answer.js";

const PATH = "/v1/messages";

/**
 * Whether a request speaks Anthropic's dialect: its paths are its own, but for the models, which
 * its clients tell by a header.
 *
 * @param path without the query
 */
export function speaksAnthropic({ headers }: IncomingMessage, path: string): boolean {
  const bare = withoutApi(path);
  if (bare === PATH || bare.startsWith(`${PATH}/`)) return true;
  return headers["anthropic-version"] !== undefined && modelsRoute(bare) !== undefined;
}

/**
 * The plain-HTTP door of inference in Anthropic's dialect: messages, their tokens counted, and
 * models; under /v1 and the same under /api/v1. Callers show a `gc-` key in `x-api-key` or as
 * bearer. Versions and betas in headers are accepted, and change nothing.
 */
export function createAnthropicDoor(deps: DoorDeps): Door {
  return async (request, response, path) => {
    const requestId = newId();
    response.setHeader("request-id", requestId);
    try {
      const route = routeOf(withoutApi(path));
      if (route === undefined) throw refuse("not_found");
      await take(deps, route, { request, response, requestId });
    } catch (error) {
      sendAnthropicError(response, error, requestId, deps.log);
    }
    return true;
  };
}

function routeOf(path: string): Route | undefined {
  switch (path) {
    case PATH:
      return { verb: "POST", serve: messages };
    case `${PATH}/count_tokens`:
      return { verb: "POST", serve: count };
    default:
      return modelsRoute(path);
  }
}

function modelsRoute(path: string): Route | undefined {
  if (path === "/v1/models") return { verb: "GET", serve: models };
  if (!path.startsWith(MODELS) || path === MODELS) return undefined;
  return { verb: "GET", serve: model(decoded(path.slice(MODELS.length))) };
}

const messages: Serve = admitted(tellAnthropic, async (deps, visit, caller) => {
  const { request, response, requestId } = visit;
  const asked = parseMessagesRequest(await readBody(request, response, MAX_BODY_BYTES));
  const native = await deps.inference.speaks(caller, asked.model, "anthropic");
  const asking = askingOf(visit, caller);
  const words = () => anthropicWords(requestId);
  if (native) return await answer(deps, asking, MESSAGES, asked, words);
  await answer(deps, asking, TRANSLATED_MESSAGES, toChatRequest(asked), words);
});

const count: Serve = admitted(tellAnthropic, async ({ inference }, visit, caller) => {
  const { request, response, requestId } = visit;
  const { model, tokens } = countTokens(await readBody(request, response, MAX_BODY_BYTES));
  const known = await inference.models(caller);
  if (!known.some(({ id }) => id === model)) throw refuse("model_not_found");
  sendJson(response, 200, { input_tokens: tokens, estimated: true }, requestId);
});

const models: Serve = async ({ inference }, { response, requestId }, caller) => {
  sendJson(response, 200, anthropicModels(await inference.models(caller)), requestId);
};

const model =
  (id: string): Serve =>
  async ({ inference }, { response, requestId }, caller) => {
    const found = (await inference.models(caller)).find((each) => each.id === id);
    if (!found) throw refuse("model_not_found");
    sendJson(response, 200, anthropicModel(found), requestId);
  };
