import { type Dispatcher, Pool } from "undici";
import { type Refusal, refuse } from "../base/errors.js";
import type { Signal } from "../base/line.js";
import { now, SECOND } from "../base/time.js";
import type { Dialect } from "./kind.js";
import type { Accepts } from "./strict.js";

/** One upstream as it was configured. */
export interface UpstreamSpec {
  /** For our own log and figures only; no caller ever sees it. */
  name: string;
  /** Base URL that ends in /v1 (or another version). */
  url: string;
  key: string | undefined;
  dialect: Dialect;
  /** Its models with the ids that they have there; null: every one that no upstream names. */
  models: ReadonlyMap<string, string> | null;
  /** Share of the requests among upstreams of one priority. */
  weight: number;
  /** The lowest is asked first. */
  priority: number;
  /** Requests under way there, from this gateway. */
  maxConcurrent: number;
  timeouts: Timeouts;
  /** Undefined where every parameter is sent. */
  accepts: Accepts | undefined;
}

export interface Timeouts {
  /** Milliseconds until the answer's head, which unary answers send when all is written. */
  headers: number;
  /** Milliseconds without a byte of the body. */
  idle: number;
}

/** An answer of an upstream while it arrives. */
export interface Exchange {
  /** Name of the upstream, for our own log only. */
  upstream: string;
  status: number;
  /** Whole seconds after which asking again can succeed, where that is known. */
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

/** Hears how an exchange goes. Each is called once at most, `failed` or `ended` once for certain. */
export interface Watcher {
  /** The answer's head is there. @returns what the one who asked gets */
  answered(exchange: Exchange): Exchange | Promise<Exchange>;
  /**
   * It is over before that.
   *
   * @param error what `post` would throw
   * @param sent  whether the upstream may have got anything of the request
   * @returns what the one who asked gets
   */
  failed(error: Error, sent: boolean): Promise<Exchange>;
  /** It is over after that. @param broken why, where the upstream broke it off */
  ended(broken: Error | undefined): void;
}

export interface Upstream {
  /**
   * Posts JSON. Resolves with the answer's head, whatever its status, or with what the watcher
   * puts in its place. Throws as `read` does.
   */
  post(path: string, body: string, signal: Signal, watcher: Watcher): Promise<Exchange>;
  close(): Promise<void>;
}

const CONNECT_TIMEOUT = 10 * SECOND;
const ANTHROPIC_VERSION = "2023-06-01";
type Headers = Record<string, string | string[] | undefined>;

/** Bytes that may wait for their reader before the upstream is made to wait. */
const HIGH_WATER = 256 * 1024;

/**
 * Opens a pool of kept-alive connections to one upstream. Pipelining stays at 1: one slow answer
 * must hold up no other.
 */
export function createUpstream(spec: UpstreamSpec): Upstream {
  const base = new URL(spec.url);
  const pool = new Pool(base.origin, {
    pipelining: 1,
    headersTimeout: spec.timeouts.headers,
    bodyTimeout: spec.timeouts.idle,
    connect: { timeout: CONNECT_TIMEOUT },
  });
  const headers = [
    ...["content-type", "application/json", "accept", "application/json, text/event-stream"],
    ...keyHeaders(spec),
  ];
  const prefix = base.pathname.replace(/\/+$/, "");
  return {
    post(path, body, signal, watcher) {
      const options = { method: "POST" as const, path: prefix + path, headers, body };
      return exchange(spec.name, pool, options, signal, watcher);
    },
    close: () => pool.destroy(),
  };
}

function keyHeaders({ key, dialect }: UpstreamSpec): string[] {
  if (dialect === "openai") return key === undefined ? [] : ["authorization", `Bearer ${key}`];
  const version = ["anthropic-version", ANTHROPIC_VERSION];
  return key === undefined ? version : ["x-api-key", key, ...version];
}

/**
 * One request and its answer. Written as objects with methods, not with named functions inside:
 * this runs for every request, and naming functions at run time is what it would mostly do.
 */
function exchange(
  upstream: string,
  pool: Pool,
  options: Dispatcher.DispatchOptions,
  signal: Signal,
  watcher: Watcher,
): Promise<Exchange> {
  return new Promise((resolve) => {
    const arriving = createQueue();
    const handler = {
      controller: undefined as Dispatcher.DispatchController | undefined,
      answered: false,
      over: false,

      /** The caller has hung up. */
      handleEvent() {
        this.cancel(signal.reason as Error);
      },
      cancel(reason: Error) {
        this.end(reason);
        this.controller?.abort(reason);
      },
      /** @param broken the same error, where the upstream is to blame */
      end(error: Error | undefined, broken?: Error) {
        if (this.over) return;
        this.over = true;
        signal.removeEventListener("abort", handler);
        if (error === undefined) arriving.end();
        else arriving.fail(error);
        if (this.answered) watcher.ended(broken);
        else if (error) resolve(watcher.failed(error, this.controller !== undefined));
      },
      resume() {
        if (this.controller?.paused) this.controller.resume();
      },
      onRequestStart(controller: Dispatcher.DispatchController) {
        this.controller = controller;
        if (this.over) controller.abort(signal.reason as Error);
      },
      onResponseStart(_: unknown, status: number, headers: Headers) {
        if (status < 200 || this.over) return;
        this.answered = true;
        const answer: Exchange = {
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
        };
        resolve(watcher.answered(answer));
      },
      onResponseData(controller: Dispatcher.DispatchController, piece: Buffer) {
        if (arriving.add(piece) <= HIGH_WATER) return;
        if (arriving.isDiscarding()) this.cancel(new Error("too much to discard"));
        else controller.pause();
      },
      onResponseEnd() {
        this.end(undefined);
      },
      onResponseError(_: unknown, error: Error) {
        const failure = inOurWords(error);
        this.end(failure, failure);
      },
    };
    if (signal.aborted) return handler.end(signal.reason as Error);
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
    /** @returns bytes that wait now, or that were discarded */
    add(piece: Buffer): number {
      size += piece.length;
      if (discarding) return size;
      pieces.push(piece);
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
      size = 0;
    },
    isDiscarding: () => discarding,
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

/** The header says seconds, or when. */
function seconds(header: string | string[] | undefined): number | undefined {
  if (typeof header !== "string") return undefined;
  if (/^[0-9]{1,6}(?:\.[0-9]+)?$/.test(header)) return Math.ceil(Number(header));
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, Math.ceil((at - now()) / SECOND));
}
