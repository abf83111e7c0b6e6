import type { JsonObject } from "@bufbuild/protobuf";
import type { Reason, Refusal } from "../base/errors.js";

/** What OpenRouter's clients call it, by our reason or by the status. */
const BY_REASON: Partial<Record<Reason, string>> = {
  upstream_rate_limited: "provider_overloaded",
  model_unavailable: "provider_unavailable",
};
const BY_STATUS: Record<number, string> = {
  400: "invalid_request",
  401: "authentication",
  402: "payment_required",
  403: "permission_denied",
  404: "not_found",
  405: "invalid_request",
  409: "precondition_failed",
  413: "payload_too_large",
  429: "rate_limit_exceeded",
  504: "timeout",
};

/**
 * A refusal as OpenRouter's clients read it: `code` is the HTTP status. Our own word and all facts
 * stand in `metadata`.
 */
export const openRouterRefusal = (refusal: Refusal): { status: number; body: object } => ({
  status: refusal.meaning.http,
  body: { error: openRouterError(refusal) },
});

/** The `error` of a refusal. */
export function openRouterError({ reason, message, meaning, details }: Refusal): JsonObject {
  const type = BY_REASON[reason] ?? BY_STATUS[meaning.http] ?? "server";
  return {
    code: meaning.http,
    message,
    type: meaning.type ?? reason,
    metadata: {
      error_type: type,
      code: reason,
      ...(details.param !== undefined && { param: details.param }),
      ...details.facts,
    },
  };
}
