import { type Refusal, refuse } from "../base/errors.js";
import { newId } from "../base/ids.js";
import { SECOND } from "../base/time.js";
import { CHAT } from "../inference/chat.js";
import { EMBEDDINGS, parseEmbeddingRequest } from "../inference/embeddings.js";
import type { Kind } from "../inference/kind.js";
import { type Model, OWNED_BY } from "../inference/models.js";
import type { ChatRequest } from "../inference/parameters.js";
import { parseChatRequest } from "../inference/request.js";
import { getChildOfCaller } from "../keys/child-keys.js";
import { admitted, tellOpenAi } from "./admitted.js";
import {
  answer,
  askingOf,
  type Door,
  type DoorDeps,
  decoded,
  MAX_BODY_BYTES,
  MODELS,
  queryOf,
  type Route,
  type Serve,
  sendText,
  take,
  type Visit,
  withoutApi,
} from "./door.js";
import type { StreamWords } from "./event-stream.js";
import { completeFor } from "./inferring.js";
import { keyBody } from "./openai-key.js";
import { OPENAI_WORDS } from "./openai-stream.js";
import { errorAnswer, readBody, refuseWith, sendJson } from "./wire/answer.js";

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

interface Spoken extends Visit {
  words: Words;
}

/**
 * The plain-HTTP doors of inference in OpenAI's dialect: chat completions, embeddings, models, and the
 * caller's own key; under /v1 and the same under /api/v1. Callers show a `gc-` key as bearer or in
 * `x-api-key`.
 *
 * @param openRouter how callers under /api/v1 are spoken to
 */
export function createOpenAiDoor(deps: DoorDeps, openRouter: Words): Door {
  return async (request, response, path) => {
    const bare = withoutApi(path);
    const route = routeOf(bare);
    if (route === undefined) return false;
    const requestId = newId();
    const words = bare === path ? OPENAI : openRouter;
    try {
      await take(deps, route, { request, response, requestId, words });
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

const chat: Serve<Spoken> = admitted(tellOpenAi, async (deps, visit, caller) => {
  const { request, response, words } = visit;
  const asked = words.readChat(await readBody(request, response, MAX_BODY_BYTES));
  await answer(deps, askingOf(visit, caller), words.chat, asked, () => words.stream(asked));
});

const embeddings: Serve = admitted(tellOpenAi, async ({ inference }, visit, caller) => {
  const { request, response, requestId } = visit;
  const asked = parseEmbeddingRequest(await readBody(request, response, MAX_BODY_BYTES));
  const asking = askingOf(visit, caller);
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
