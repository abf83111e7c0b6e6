import { type Reason, Refusal } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { elapsed, SECOND } from "../base/time.js";
import { type Circuit, type CircuitState, createCircuit } from "./circuit.js";
import { createUpstream, type Exchange, type Upstream, type UpstreamSpec } from "./upstream.js";

/** How a request to an upstream has gone. */
export type Outcome =
  /** with success, so far */
  | "answered"
  /** the request itself is refused */
  | "refused"
  | "rate_limited"
  /** our key or our account there */
  | "account"
  /** an error of the upstream, whatever was asked */
  | "failed"
  /** no connection came about: nothing was sent */
  | "unreachable"
  | "timed_out"
  /** the connection broke, before the answer or within */
  | "broken"
  /** the caller hung up before the answer */
  | "hung_up";

/** An upstream among the others, as it stands. */
export interface Member {
  spec: UpstreamSpec;
  upstream: Upstream;
  /** Whether it can be reached and takes our key, whatever the model. */
  circuit: Circuit;
  inFlight: number;
  outcomes: Record<Outcome, number>;
  /** Requests that went elsewhere, or here again, after they had failed here. */
  retries: number;
  targets: Target[];
}

/** One model at one upstream. One model's trouble there is not the others'. */
export interface Target {
  member: Member;
  /** As callers know it. */
  model: string;
  /** As the upstream knows it. */
  modelThere: string;
  circuit: Circuit;
  /** Whether its last failure may have been the fault of the request. */
  doubtful: boolean;
  /** No request goes there before this, in `elapsed` time, since the upstream has said so. */
  coolUntil: number;
  /** What a request is refused with meanwhile. */
  coolFor: Reason;
}

/** Why a target takes no request now. */
export interface Obstacle {
  reason: Reason;
  /** Milliseconds until it may take one. */
  wait: number;
  /**
   * It may be asked where nobody else serves the model: else one caller, with a request that makes
   * the upstream fail, could keep all others out.
   */
  doubtful: boolean;
}

/** These speak of the upstream, whatever was asked. */
const SURELY_UPSTREAM = [408, 502, 503, 504, 529];

/** Where an upstream with too much to do does not say how long to wait. */
const BREATHER = SECOND;
const LONGEST_COOLING = 3_600 * SECOND;

export function createMember(spec: UpstreamSpec, log: Log): Member {
  return {
    spec,
    upstream: createUpstream(spec),
    circuit: createCircuit(teller(log, { upstream: spec.name })),
    inFlight: 0,
    outcomes: {
      ...{ answered: 0, refused: 0, rate_limited: 0, account: 0, failed: 0 },
      ...{ unreachable: 0, timed_out: 0, broken: 0, hung_up: 0 },
    },
    retries: 0,
    targets: [],
  };
}

export function createTarget(member: Member, model: string, log: Log): Target {
  const modelThere = member.spec.models?.get(model) ?? model;
  const target: Target = {
    ...{ member, model, modelThere, doubtful: false },
    ...{ coolUntil: 0, coolFor: "model_unavailable" },
    circuit: createCircuit(teller(log, { upstream: member.spec.name, model })),
  };
  member.targets.push(target);
  return target;
}

function teller(log: Log, place: { upstream: string; model?: string }) {
  return (problem: string | undefined) => {
    if (problem === undefined) log.info(place, "circuit closed: the upstream works again");
    else log.error({ ...place, problem }, "circuit opened: the upstream is left alone for a while");
  };
}

/** @param at now, in `elapsed` time. @returns undefined where a request may go there */
export function obstacleOf(target: Target, at: number): Obstacle | undefined {
  const { member, circuit, doubtful, coolUntil, coolFor } = target;
  const away = member.circuit.wait(at);
  if (away > 0) return { reason: "model_unavailable", wait: away, doubtful: false };
  if (coolUntil > at) return { reason: coolFor, wait: coolUntil - at, doubtful: false };
  if (member.inFlight >= member.spec.maxConcurrent) {
    return { reason: "upstream_rate_limited", wait: BREATHER, doubtful: false };
  }
  const broken = circuit.wait(at);
  return broken > 0 ? { reason: "model_unavailable", wait: broken, doubtful } : undefined;
}

/** How the whole upstream stands: the worst of what is known. */
export function stateOf({ circuit, targets }: Member, at: number): CircuitState {
  const states = [circuit, ...targets.map((target) => target.circuit)].map((it) => it.state(at));
  const worst = (["open", "half_open"] as const).find((state) => states.includes(state));
  return worst ?? "closed";
}

/** A request goes there. */
export function enter({ member, circuit }: Target, who: object): void {
  member.inFlight += 1;
  member.circuit.enter(who);
  circuit.enter(who);
}

/** An answer's head tells how upstream and model are. @returns what it means */
export function noteHead(target: Target, who: object, answer: Exchange, at: number): Outcome {
  const { member, circuit } = target;
  const { status, retryAfter } = answer;
  const outcome = meaningOf(status);
  member.outcomes[outcome] += 1;
  if (status === 401) {
    circuit.left(who);
    member.circuit.trip(who, "it does not take our key (401)", at);
    return outcome;
  }
  member.circuit.succeeded(who);
  if (outcome === "rate_limited") {
    circuit.left(who);
    cool(target, at, "upstream_rate_limited", retryAfter);
  } else if (outcome === "failed" || outcome === "account" || outcome === "timed_out") {
    target.doubtful = !SURELY_UPSTREAM.includes(status);
    circuit.failed(who, `it answers ${status}`, at);
    if (retryAfter) cool(target, at, "model_unavailable", retryAfter);
  } else circuit.succeeded(who);
  return outcome;
}

function meaningOf(status: number): Outcome {
  switch (status) {
    case 200:
      return "answered";
    case 429:
      return "rate_limited";
    case 401:
    case 402:
    case 403:
      return "account";
    case 408:
    case 504:
      return "timed_out";
    case 400:
    case 404:
    case 413:
    case 422:
      return "refused";
    default:
      return "failed";
  }
}

function cool(target: Target, at: number, reason: Reason, seconds: number | undefined): void {
  const length = seconds ? Math.min(seconds * SECOND, LONGEST_COOLING) : BREATHER;
  target.coolUntil = Math.max(target.coolUntil, at + length);
  target.coolFor = reason;
}

/** No answer came, though the caller waited. */
export function noteFailure(
  target: Target,
  who: object,
  error: Error,
  sent: boolean,
  at: number,
): Outcome {
  const { member, circuit } = target;
  const outcome = sent ? breakOf(error) : "unreachable";
  const problem = problemOf(error);
  member.inFlight -= 1;
  member.outcomes[outcome] += 1;
  if (sent) {
    member.circuit.left(who);
    target.doubtful = false;
    circuit.failed(who, problem, at);
  } else {
    circuit.left(who);
    member.circuit.failed(who, problem, at);
  }
  return outcome;
}

/** The caller hung up before the answer. */
export function noteHangUp({ member, circuit }: Target, who: object): void {
  member.inFlight -= 1;
  member.outcomes.hung_up += 1;
  member.circuit.left(who);
  circuit.left(who);
}

/** An answer whose head came is over; broken off by the upstream where `broken` says why. */
export function noteEnd({ member, circuit }: Target, who: object, broken: Error | undefined): void {
  member.inFlight -= 1;
  if (broken === undefined) return;
  member.outcomes[breakOf(broken)] += 1;
  circuit.failed(who, problemOf(broken), elapsed());
}

const breakOf = (error: Error): Outcome =>
  error instanceof Refusal && error.reason === "upstream_timeout" ? "timed_out" : "broken";

/** For the operator: what the error says of the connection. */
const problemOf = ({ message, cause }: Error): string =>
  cause instanceof Error ? cause.message : message;
