import { Code } from "@connectrpc/connect";

interface Meaning {
  /** gRPC status. */
  code: Code;
  /** HTTP status on the bridges; Connect maps `code` by itself. */
  http: number;
  /** `error.type` of the JSON bridges where it differs from the reason. */
  type?: string;
  text: string;
}

/**
 * Every refusal that a caller can meet. The key is `error.code` in JSON and, in upper case,
 * `ErrorInfo.reason`.
 */
export const REASONS = {
  child_key_limit_exceeded: {
    code: Code.ResourceExhausted,
    http: 402,
    type: "child_key_limit",
    text: "the spend limit of this key is reached",
  },
  insufficient_balance: {
    code: Code.FailedPrecondition,
    http: 402,
    text: "the balance behind this key does not cover the request",
  },
  rate_limit_exceeded: { code: Code.ResourceExhausted, http: 429, text: "too many requests" },
  upstream_rate_limited: {
    code: Code.Unavailable,
    http: 429,
    text: "the model is busy, try again shortly",
  },
  model_unavailable: {
    code: Code.Unavailable,
    http: 503,
    text: "the model is not available at the moment",
  },
  upstream_timeout: {
    code: Code.DeadlineExceeded,
    http: 504,
    text: "the model did not answer in time",
  },
  busy: { code: Code.Unavailable, http: 503, text: "too much at once, try again shortly" },
  not_ready: { code: Code.Unavailable, http: 503, text: "not ready to take requests" },
  account_suspended: {
    code: Code.FailedPrecondition,
    http: 403,
    text: "the account is suspended",
  },
  model_not_found: { code: Code.NotFound, http: 404, text: "no such model for this key" },
  capture_exceeds_hold: {
    code: Code.FailedPrecondition,
    http: 409,
    text: "the cost is above what was held",
  },
  hold_ended: { code: Code.FailedPrecondition, http: 409, text: "the hold has already ended" },
  child_key_inactive: {
    code: Code.FailedPrecondition,
    http: 409,
    text: "the child key is disabled, expired or deleted",
  },
  request_too_large: {
    code: Code.ResourceExhausted,
    http: 413,
    text: "the request body is too large",
  },
  method_not_allowed: { code: Code.Unimplemented, http: 405, text: "method not allowed" },
  invalid_api_key: {
    code: Code.Unauthenticated,
    http: 401,
    text: "the key or token is missing or not valid",
  },
  wrong_key_kind: {
    code: Code.PermissionDenied,
    http: 403,
    text: "this kind of key cannot be used here",
  },
  read_only_key: { code: Code.PermissionDenied, http: 403, text: "this key may only read" },
  not_found: { code: Code.NotFound, http: 404, text: "not found" },
  email_taken: { code: Code.AlreadyExists, http: 409, text: "this e-mail is registered already" },
  idempotency_conflict: {
    code: Code.AlreadyExists,
    http: 409,
    text: "the same id or idempotency key was used with other content",
  },
  answer_not_kept: {
    code: Code.FailedPrecondition,
    http: 409,
    text: "the request with this idempotency key was answered and charged, its answer is not kept",
  },
  invalid_request_error: {
    code: Code.InvalidArgument,
    http: 400,
    text: "the request is not valid",
  },
  internal_error: { code: Code.Internal, http: 500, text: "internal error" },
} as const satisfies Record<string, Meaning>;

export type Reason = keyof typeof REASONS;

/** What a refusal may carry beside its reason. Amounts are decimal strings of ngonka. */
export interface RefusalDetails {
  /** Replaces the reason's own text. Never names an upstream, a secret or another owner. */
  message?: string;
  /** The field at fault, in snake_case with its path. */
  param?: string;
  /** Whole seconds after which a retry can succeed. */
  retryAfter?: number;
  /** The same in milliseconds, where it is known better than in whole seconds. */
  retryAfterMs?: number;
  /** False tells SDKs that retrying cannot help; true that it will. */
  shouldRetry?: boolean;
  /** Further machine-readable facts: remaining amounts, resets. */
  facts?: Record<string, string>;
}

/** The one error of this project: a reason from the table and what the caller should know. */
export class Refusal extends Error {
  override readonly name = "Refusal";

  constructor(
    readonly reason: Reason,
    readonly details: RefusalDetails = {},
  ) {
    super(details.message ?? REASONS[reason].text);
  }

  get meaning(): Meaning {
    return REASONS[this.reason];
  }
}

/** `throw refuse("not_found", …)`: reads as what it does. */
export function refuse(reason: Reason, details?: RefusalDetails): Refusal {
  return new Refusal(reason, details);
}

/** A refusal for one field: `limit_daily_ngonka: must be a decimal string`. */
export function refuseField(param: string, problem: string): Refusal {
  return new Refusal("invalid_request_error", { param, message: `${param}: ${problem}` });
}

/**
 * What a caller may learn of any error: refusals as they are, everything else as "internal error".
 */
export function toRefusal(error: unknown): Refusal {
  return error instanceof Refusal ? error : new Refusal("internal_error");
}
