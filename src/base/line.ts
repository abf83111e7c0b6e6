/** What tells somebody at work that they are to stop. An `AbortSignal` is one. */
export interface Signal {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  addEventListener(type: "abort", listener: Listener, options?: { once: boolean }): void;
  removeEventListener(type: "abort", listener: Listener): void;
}

type Listener = (() => void) | { handleEvent(): void };

/** The line to whoever asks for something, which either end may cut. An `AbortController` is one. */
export interface Line {
  readonly signal: Signal;
  abort(reason: Error): void;
}

/**
 * A line for one request among thousands a second. Node's own signals, once dropped, outlive many
 * collections of young objects, and with them whatever a request has made: copying that was half of
 * the collector's work.
 */
export function createLine(): Line {
  let listeners: Listener[] = [];
  const signal = {
    aborted: false,
    reason: undefined as unknown,
    throwIfAborted() {
      if (signal.aborted) throw signal.reason;
    },
    addEventListener(_: "abort", listener: Listener) {
      if (!signal.aborted) listeners.push(listener);
    },
    removeEventListener(_: "abort", listener: Listener) {
      listeners = listeners.filter((it) => it !== listener);
    },
  };
  return {
    signal,
    abort(reason) {
      if (signal.aborted) return;
      signal.aborted = true;
      signal.reason = reason;
      const told = listeners;
      listeners = [];
      for (const listener of told) {
        if (typeof listener === "function") listener();
        else listener.handleEvent();
      }
    },
  };
}
