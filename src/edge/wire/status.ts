import { create } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { Refusal, type RefusalDetails } from "../../base/errors.js";
import type { Log } from "../../base/log.js";
import { SECOND } from "../../base/time.js";
import { toAnswer } from "../../db/outage.js";
import {
  type ErrorInfo,
  ErrorInfoSchema,
  type RetryInfo,
  RetryInfoSchema,
  type Status,
  StatusSchema,
} from "../../gen/google/rpc/errors_pb.js";
import type { CallContext } from "./handlers.js";

/** Largest message that any RPC door takes or sends, in bytes. */
export const MAX_MESSAGE_BYTES = 10 * 1024 * 1024;

/** A failed call in the words of gRPC. `code` has the same numbers in Connect and gRPC. */
export interface RpcFailure {
  code: Code;
  message: string;
  errorInfo: ErrorInfo | undefined;
  retryInfo: RetryInfo | undefined;
  /** What gRPC's own retries heed: milliseconds to wait, or "-1" for never. */
  pushback: string | undefined;
}

/** The trailer that gRPC's clients read it in. */
export const PUSHBACK = "grpc-retry-pushback-ms";

/**
 * Puts an error into RPC's words. What a caller must not learn goes to the log, with the request id
 * that finds it.
 *
 * @returns Code.Canceled, or DeadlineExceeded, without details where the caller is gone already or
 *   its time is over
 */
export function toRpcFailure(
  error: unknown,
  caller: Pick<CallContext, "requestId" | "signal">,
  log: Log,
): RpcFailure {
  if (!(error instanceof Refusal)) {
    if (caller.signal.aborted) return cutShort(caller.signal);
    log.error({ err: error, requestId: caller.requestId }, "call failed");
  }
  const refusal = toAnswer(error);
  const seconds = refusal.details.retryAfter;
  return {
    code: refusal.meaning.code,
    message: refusal.message,
    errorInfo: create(ErrorInfoSchema, {
      reason: refusal.reason.toUpperCase(),
      domain: "keytoll",
      metadata: metadataOf(refusal, caller.requestId),
    }),
    retryInfo:
      seconds === undefined
        ? undefined
        : create(RetryInfoSchema, { retryDelay: { seconds: BigInt(seconds) } }),
    pushback: pushbackOf(refusal.details),
  };
}

function pushbackOf({ retryAfter, shouldRetry }: RefusalDetails): string | undefined {
  if (shouldRetry === false) return "-1";
  return retryAfter === undefined ? undefined : String(retryAfter * SECOND);
}

/** Of a call that its caller ended, or whose time was over. */
function cutShort({ reason }: AbortSignal): RpcFailure {
  const none = { errorInfo: undefined, retryInfo: undefined, pushback: undefined };
  if (reason instanceof ConnectError && reason.code === Code.DeadlineExceeded) {
    return { code: Code.DeadlineExceeded, message: "the deadline of the call has passed", ...none };
  }
  return { code: Code.Canceled, message: "the call was cancelled", ...none };
}

/** The failure as google.rpc.Status, for `grpc-status-details-bin`. */
export function toStatusMessage({ code, message, errorInfo, retryInfo }: RpcFailure): Status {
  const details = [];
  if (errorInfo) details.push(anyPack(ErrorInfoSchema, errorInfo));
  if (retryInfo) details.push(anyPack(RetryInfoSchema, retryInfo));
  return create(StatusSchema, { code, message, details });
}

function metadataOf({ details }: Refusal, requestId: string): Record<string, string> {
  const metadata: Record<string, string> = { ...details.facts, request_id: requestId };
  if (details.param !== undefined) metadata.param = details.param;
  if (details.retryAfter !== undefined) metadata.retry_after = String(details.retryAfter);
  if (details.shouldRetry !== undefined) metadata.should_retry = String(details.shouldRetry);
  return metadata;
}
