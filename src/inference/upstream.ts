import { type Dispatcher, Pool } from "undici";
import { type Refusal, refuse } from "../base/errors.js";
import { MINUTE, SECOND } from "../base/time.js";

/** One upstream as it was configured. */
export interface UpstreamSpec {
  /** For our own log only; no caller ever sees it. */
  name: string;
  /** Base URL that ends in /v1 (or another version). */
  url: string;
  key: string | undefined;
  /** Models that it serves; null: every one that no other upstream names. */
  models: readonly string[] | null;
}

/** An answer of an upstream while it arrives. */
export interface Exchange {
  /** Name of the upstream, for our own log only. */
  upstream: string;
  status: number;
  /** Seconds that the upstream asks us to wait, where it says so. */
  retryAfter: number | undefined;
  /**
   * Everything that arrived since the last read, at least one piece; undefined at the end. So the
   * pieces of one burst are handled together, and an upstream that is faster than its reader is
   * made to wait.
   *
   * @throws upstream_timeout, model_unavailable; the signal's reason where the caller is gone
   */
  read(): Promise<Buffer[] | undefined>;
  /** Cuts the connection, so that the upstream stops working. */
  cancel(): void;
  /** Lets the rest arrive unread, so that the connection can be used again. */
  discard(): void;
}

export interface Upstream {
  name: string;
  /** Posts JSON. Resolves with the answer's head, whatever its status. Throws as `read` does. */
  post(path: string, body: string, signal: AbortSignal): Promise<Exchange>;
  close(): Promise<void>;
}

export interface Timeouts {
  /** Milliseconds until the answer's head, which unary answers send when all is written. */
  headers: number;
  /** Milliseconds without a byte of the body. */
  idle: number;
}

const TIMEOUTS: Timeouts = { headers: 5 * MINUTE, idle: 2 * MINUTE };
const CONNECT_TIMEOUT = 10 * SECOND;
type Headers = Record<string, string | string[] | undefined>;

/** Bytes that may wait for their reader before the upstream is made to wait. */
const HIGH_WATER = 256 * 1024;

/**
 * Opens a pool of kept-alive connections to one upstream. Pipelining stays at 1: one slow answer
 * must hold up no other.
 */
export function createUpstream(spec: UpstreamSpec, timeouts = TIMEOUTS): Upstream {
  const base = new URL(spec.url);
  const pool = new Pool(base.origin, {
    pipelining: 1,
    headersTimeout: timeouts.headers,
    bodyTimeout: timeouts.idle,
    connect: { timeout: CONNECT_TIMEOUT },
  });
  const headers = [
    ...["content-type", "application/json", "accept", "application/json, text/event-stream"],
    ...(spec.key === undefined ? [] : ["authorization", `Bearer ${spec.key}`]),
  ];
  const prefix = base.pathname.replace(/\/+$/, "");
  return {
    name: spec.name,
    post: (path, body, signal) =>
      exchange(spec.name, pool, { method: "POST", path: prefix + path, headers, body }, signal),
    close: () => pool.destroy(),
  };
}

/**
 * One request and its answer. Written as objects with methods, not with named functions inside:
 * this runs for every request, and naming functions at run time is what it would mostly do.
 */
function exchange(
  upstream: string,
  pool: Pool,
  options: Dispatcher.DispatchOptions,
  signal: AbortSignal,
): Promise<Exchange> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const arriving = createQueue();
    const handler = {
      controller: undefined as Dispatcher.DispatchController | undefined,

      /** The caller has hung up. */
      handleEvent() {
        reject(signal.reason);
        this.cancel(signal.reason as Error);
      },
      cancel(reason: Error) {
        arriving.fail(reason);
        this.controller?.abort(reason);
      },
      resume() {
        if (this.controller?.paused) this.controller.resume();
      },
      onRequestStart(controller: Dispatcher.DispatchController) {
        this.controller = controller;
        if (signal.aborted) controller.abort(signal.reason as Error);
      },
      onResponseStart(_: unknown, status: number, headers: Headers) {
        if (status < 200) return;
        resolve({
          upstream,
          status,
          retryAfter: seconds(headers["retry-after"]),
          async read() {
            const pieces = await arriving.take();
            handler.resume();
            return pieces;
          },
          cancel: () => handler.cancel(new Error("cancelled")),
          discard() {
            arriving.discard();
            handler.resume();
          },
        });
      },
      onResponseData(controller: Dispatcher.DispatchController, piece: Buffer) {
        if (arriving.add(piece) > HIGH_WATER) controller.pause();
      },
      onResponseEnd() {
        signal.removeEventListener("abort", handler);
        arriving.end();
      },
      onResponseError(_: unknown, error: Error) {
        signal.removeEventListener("abort", handler);
        const failure = signal.aborted ? (signal.reason as Error) : inOurWords(error);
        reject(failure);
        arriving.fail(failure);
      },
    };
    signal.addEventListener("abort", handler);
    pool.dispatch(options, handler);
  });
}

/** Pieces between the socket that brings them and the one reader. */
function createQueue() {
  let pieces: Buffer[] = [];
  let size = 0;
  let ended = false;
  let discarding = false;
  let failure: Error | undefined;
  let wake: (() => void) | undefined;
  return {
    /** @returns bytes that wait now */
    add(piece: Buffer): number {
      if (discarding) return 0;
      pieces.push(piece);
      size += piece.length;
      wake?.();
      return size;
    },
    end() {
      ended = true;
      wake?.();
    },
    fail(error: Error) {
      failure ??= error;
      wake?.();
    },
    discard() {
      discarding = true;
      pieces = [];
    },
    async take(): Promise<Buffer[] | undefined> {
      while (pieces.length === 0 && !ended && failure === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (pieces.length === 0) {
        if (failure !== undefined) throw failure;
        return undefined;
      }
      const taken = pieces;
      pieces = [];
      size = 0;
      return taken;
    },
  };
}

/**
 * Nothing of the error itself may reach a caller: it names hosts. It stays as the cause, for the
 * log.
 */
function inOurWords(error: Error): Refusal {
  const code = "code" in error ? error.code : undefined;
  const timedOut = code === "UND_ERR_HEADERS_TIMEOUT" || code === "UND_ERR_BODY_TIMEOUT";
  const refusal = refuse(timedOut ? "upstream_timeout" : "model_unavailable");
  refusal.cause = error;
  return refusal;
}

function seconds(header: string | string[] | undefined): number | undefined {
  return typeof header === "string" && /^[0-9]{1,6}$/.test(header) ? Number(header) : undefined;
}
