import type { Model } from "../inference/models.js";

/** Models as Anthropic's clients list them: in one page. */
export function anthropicModels(models: readonly Model[]): object {
  const data = models.map(anthropicModel);
  return {
    data,
    has_more: false,
    first_id: data.at(0)?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
  };
}

export const anthropicModel = ({ id, since, contextTokens, maxOutputTokens }: Model) => ({
  type: "model",
  id,
  display_name: id,
  created_at: since.toISOString(),
  max_input_tokens: contextTokens,
  max_tokens: maxOutputTokens,
});
