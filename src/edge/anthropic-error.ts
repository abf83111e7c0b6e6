import type { ServerResponse } from "node:http";
import type { Reason, Refusal } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { PING } from "../inference/anthropic/events.js";
import type { StreamWords } from "./event-stream.js";
import { refuseWith } from "./wire/answer.js";

interface Meaning {
  type: string;
  /** Where it differs from the other doors'. */
  http?: number;
}

/**
 * Anthropic's words for what passes by itself. Its clients try again on this status, wait as long
 * as they are told, and some turn to another model when it lasts.
 */
const OVERLOADED: Meaning = { type: "overloaded_error", http: 529 };

/** Reasons that Anthropic's clients know by another word than their status says. */
const MEANINGS: Partial<Record<Reason, Meaning>> = {
  child_key_limit_exceeded: { type: "billing_error" },
  insufficient_balance: { type: "billing_error" },
  upstream_timeout: { type: "timeout_error" },
  model_unavailable: OVERLOADED,
  busy: OVERLOADED,
  not_ready: OVERLOADED,
};

const TYPES: Record<number, string> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  409: "conflict_error",
  413: "request_too_large",
  429: "rate_limit_error",
  500: "api_error",
};

function meaningOf({ reason, meaning }: Refusal): Required<Meaning> {
  const { type, http = meaning.http } = MEANINGS[reason] ?? {
    type: TYPES[meaning.http] ?? "invalid_request_error",
  };
  return { type, http };
}

/** A refusal in Anthropic's form; our own word for it is in `code`. */
function anthropicErrorBody(refusal: Refusal, requestId: string): object {
  const { reason, message, details } = refusal;
  const { param, facts } = details;
  const { type } = meaningOf(refusal);
  const error = { type, message, code: reason, ...(param !== undefined && { param }), ...facts };
  return { type: "error", error, request_id: requestId };
}

/** As `sendError`, in Anthropic's form. */
export function sendAnthropicError(
  response: ServerResponse,
  error: unknown,
  requestId: string,
  log: Log,
): void {
  refuseWith(response, error, requestId, log, (refusal) => ({
    status: meaningOf(refusal).http,
    body: anthropicErrorBody(refusal, requestId),
  }));
}

/** Anthropic's dialect of a stream: its clients skip pings, and raise an `error`. */
export const anthropicWords = (requestId: string): StreamWords => ({
  heartbeat: PING,
  error: (refusal) =>
    `event: error\ndata: ${JSON.stringify(anthropicErrorBody(refusal, requestId))}\n\n`,
});
