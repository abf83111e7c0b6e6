import { MINUTE, SECOND } from "../base/time.js";

/** half_open: it may be tried again, by one request at a time. */
export type CircuitState = "closed" | "open" | "half_open";

/**
 * Keeps requests away from what keeps failing. It opens after failures in a row, or when half of
 * what was asked lately failed. After a while one request may try: where it succeeds the circuit
 * closes, else it stays open for twice as long. Times are milliseconds of `elapsed`.
 *
 * `who` is any object that stands for one request: it says which of them is the one that tries.
 */
export interface Circuit {
  state(at: number): CircuitState;
  /** Why it is not closed; undefined where it is. */
  problem(): string | undefined;
  /** Milliseconds until a request may go through; 0: it may now. */
  wait(at: number): number;
  /** A request goes through. */
  enter(who: object): void;
  succeeded(who: object): void;
  failed(who: object, why: string, at: number): void;
  /** Opens at once, for long: waiting a moment will not help. */
  trip(who: object, why: string, at: number): void;
  /** A request has ended in a way that says neither. */
  left(who: object): void;
}

const IN_A_ROW = 5;
const WINDOW = 10 * SECOND;
/** So few say nothing about a rate. */
const FEWEST_IN_WINDOW = 10;
const FIRST_PAUSE = SECOND;
const LONGEST_PAUSE = 30 * SECOND;
const TRIPPED_PAUSE = MINUTE;
/** Until whoever tries is expected to know. */
const PROBE_TIME = SECOND;

/** @param tell hears of every change: why it opened, or undefined where it closed */
export function createCircuit(tell: (problem: string | undefined) => void): Circuit {
  let problem: string | undefined;
  let until = 0;
  let pause = 0;
  let probe: object | undefined;
  let inARow = 0;
  let windowSince = 0;
  let failures = 0;
  let successes = 0;

  const openUntil = (why: string, at: number, length: number) => {
    const opens = problem === undefined;
    problem = why;
    pause = length;
    until = at + length;
    probe = undefined;
    if (opens) tell(why);
  };
  const count = (at: number) => {
    if (at - windowSince > WINDOW) {
      windowSince = at;
      failures = 0;
      successes = 0;
    }
    failures += 1;
    inARow += 1;
  };
  const close = () => {
    problem = undefined;
    probe = undefined;
    pause = 0;
    failures = 0;
    tell(undefined);
  };

  return {
    state(at) {
      if (problem === undefined) return "closed";
      return at < until ? "open" : "half_open";
    },
    problem: () => problem,
    wait(at) {
      if (problem === undefined) return 0;
      if (probe !== undefined) return PROBE_TIME;
      return Math.max(0, until - at);
    },
    enter(who) {
      if (problem !== undefined) probe = who;
    },
    succeeded(who) {
      // What was asked before it opened and succeeds now proves nothing about what comes
      if (problem !== undefined && probe !== who) return;
      if (problem !== undefined) close();
      inARow = 0;
      successes += 1;
    },
    failed(who, why, at) {
      if (problem !== undefined) {
        if (probe === who) openUntil(why, at, Math.min(pause * 2, LONGEST_PAUSE));
        return;
      }
      count(at);
      const half = failures >= FEWEST_IN_WINDOW && failures >= successes;
      if (inARow >= IN_A_ROW || half) openUntil(why, at, FIRST_PAUSE);
    },
    trip: (_, why, at) => openUntil(why, at, TRIPPED_PAUSE),
    left(who) {
      if (probe === who) probe = undefined;
    },
  };
}
