import { type Refusal, refuse } from "../base/errors.js";
import { isObject, type Json } from "./values.js";

const SOON = 1;
const MAX_RETRY_AFTER = 3_600;

interface Answered {
  status: number;
  retryAfter: number | undefined;
}

/**
 * What a caller may learn where an upstream answered with something else than success: our own
 * reasons in our own words, never a word of the upstream.
 *
 * @param body   the upstream's answer
 * @param passed what was passed on of the caller's parameters: only one of their names may come
 *   back
 */
export function refusalOf({ status, retryAfter }: Answered, body: string, passed: Json): Refusal {
  const wait = Math.min(Math.max(retryAfter ?? SOON, SOON), MAX_RETRY_AFTER);
  switch (status) {
    case 429:
      return refuse("upstream_rate_limited", { retryAfter: wait, shouldRetry: true });
    case 400:
    case 404:
    case 422:
      return refusedByModel(paramOf(body, passed));
    case 413:
      return refuse("request_too_large", {
        message: "the request is too large for this model",
        shouldRetry: false,
      });
    case 408:
    case 504:
      return refuse("upstream_timeout");
    default:
      return refuse("model_unavailable", retryAfter === undefined ? {} : { retryAfter: wait });
  }
}

function refusedByModel(param: string | undefined): Refusal {
  if (param === undefined) {
    return refuse("invalid_request_error", { message: "the model does not accept this request" });
  }
  const message = `${param}: the model does not accept it`;
  return refuse("invalid_request_error", { param, message });
}

/** The parameter that the upstream blames, where it is one that the caller set. */
function paramOf(body: string, passed: Json): string | undefined {
  try {
    const answer: unknown = JSON.parse(body);
    const error = isObject(answer) ? answer.error : undefined;
    const param = isObject(error) ? error.param : undefined;
    return typeof param === "string" && Object.hasOwn(passed, param) ? param : undefined;
  } catch {
    return undefined;
  }
}
