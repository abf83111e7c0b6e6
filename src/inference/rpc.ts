import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import type {
  CreateChatCompletionRequest,
  CreateEmbeddingRequest,
  ListModelsRequest,
  StreamChatCompletionRequest,
} from "../gen/keytoll/v1/inference_pb.js";
import type { ChildCaller, Credentials } from "../keys/caller.js";
import type { RateLimiter } from "../keys/rate-limit.js";
import { admit } from "./admit.js";
import { CHAT } from "./chat.js";
import { EMBEDDINGS, parseEmbeddingRequest } from "./embeddings.js";
import type { Inference } from "./inference.js";
import { toBody, toChunk, toCompletion, toEmbeddingBody, toEmbeddings } from "./messages.js";
import { OWNED_BY } from "./models.js";
import { parseChatRequest } from "./request.js";
import { completeCall, type InferenceCall, streamCall } from "./rpc-call.js";

export interface InferenceHandling {
  inference: Inference;
  limiter: RateLimiter;
  requireChild(shown: Credentials): Promise<ChildCaller>;
}

/** The handlers of InferenceService, on the same functions as the plain-HTTP doors. */
export const inferenceHandlers = ({ inference, limiter, requireChild }: InferenceHandling) => ({
  async createChatCompletion(request: CreateChatCompletionRequest, call: InferenceCall) {
    const caller = await requireChild(call);
    const leave = await admit(limiter, caller);
    try {
      const asked = parseChatRequest(toBody(request, false));
      return toCompletion(await completeCall(inference, { caller, call }, CHAT, asked));
    } finally {
      leave();
    }
  },

  async *streamChatCompletion({ completion }: StreamChatCompletionRequest, call: InferenceCall) {
    const caller = await requireChild(call);
    const leave = await admit(limiter, caller);
    try {
      if (completion === undefined) throw refuseField("completion", "must be set");
      const asked = parseChatRequest(toBody(completion, true));
      for await (const events of await streamCall(inference, { caller, call }, CHAT, asked)) {
        for (const payload of payloadsOf(events)) yield toChunk(payload);
      }
    } finally {
      leave();
    }
  },

  async createEmbedding(request: CreateEmbeddingRequest, call: InferenceCall) {
    const caller = await requireChild(call);
    const leave = await admit(limiter, caller);
    try {
      const asked = parseEmbeddingRequest(toEmbeddingBody(request));
      return toEmbeddings(await completeCall(inference, { caller, call }, EMBEDDINGS, asked));
    } finally {
      leave();
    }
  },

  async listModels(_: ListModelsRequest, call: InferenceCall) {
    const models = await inference.models(await requireChild(call), "openai");
    return {
      data: models.map(({ id, since, contextTokens, maxOutputTokens }) => ({
        id,
        created: timestampFromDate(since),
        ownedBy: OWNED_BY,
        ...(contextTokens !== null && { contextTokens }),
        ...(maxOutputTokens !== null && { maxOutputTokens }),
      })),
    };
  },
});

/** The chunks in events that are ours: each one line of data. */
function payloadsOf(events: Buffer): string[] {
  return events
    .toString("utf8")
    .split("\n\n")
    .map((event) => event.slice("data: ".length))
    .filter((payload) => payload !== "" && payload !== "[DONE]");
}
