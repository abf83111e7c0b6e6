import type { Refusal } from "../base/errors.js";
import { now, SECOND } from "../base/time.js";
import type { Unit } from "../base/unit.js";
import type { ChatRequest } from "../inference/parameters.js";
import type { Words } from "./openai.js";
import { OPENAI_WORDS } from "./openai-stream.js";
import { openRouterChat, readOpenRouterChat } from "./openrouter-chat.js";
import { openRouterError, openRouterRefusal } from "./openrouter-errors.js";
import { openRouterModel, openRouterModels } from "./openrouter-models.js";

/** How callers of /api/v1 are spoken to: as OpenRouter's clients expect it. @param unit of amounts */
export const openRouterWords = (unit: Unit): Words => ({
  chat: openRouterChat(unit),
  readChat: readOpenRouterChat,
  model: (model) => openRouterModel(model, unit),
  models: (all, query) => openRouterModels(all, query, unit),
  refusal: openRouterRefusal,
  stream: (asked) => ({
    heartbeat: OPENAI_WORDS.heartbeat,
    error: (refusal) => broken(asked, refusal),
  }),
});

/** A chunk that says of its answer that it ended in an error. */
function broken({ answerId, model }: ChatRequest, refusal: Refusal): string {
  const chunk = {
    id: answerId,
    object: "chat.completion.chunk",
    created: Math.floor(now() / SECOND),
    model,
    choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: "error" }],
    error: openRouterError(refusal),
  };
  return `data: ${JSON.stringify(chunk)}\n\n`;
}
