import { type Refusal, refuse } from "../base/errors.js";
import type { Signal } from "../base/line.js";
import type { Log } from "../base/log.js";
import { elapsed, pause, SECOND } from "../base/time.js";
import {
  enter,
  noteEnd,
  noteFailure,
  noteHangUp,
  noteHead,
  type Obstacle,
  type Outcome,
  obstacleOf,
  type Target,
} from "./member.js";
import type { Accepts } from "./strict.js";
import type { Exchange, Watcher } from "./upstream.js";

/**
 * Writes a request's body for an upstream.
 *
 * @param model   the id that the model has there
 * @param accepts tells which parameters it takes; undefined: all
 */
export type BodyFor = (model: string, accepts: Accepts | undefined) => string;

/** The way of one model's requests to whoever serves it. */
export interface Route {
  /**
   * Asks one upstream, and another where that is sure to have cost nothing. Resolves with an
   * answer's head, whatever its status.
   *
   * @param path below the upstream's base URL
   * @throws upstream_rate_limited, model_unavailable  nobody can take it now; and as `Exchange.read`
   */
  post(path: string, bodyFor: BodyFor, signal: Signal): Promise<Exchange>;
}

/** What is asked for, and where it was already. */
interface Asking {
  targets: readonly Target[];
  path: string;
  bodyFor: BodyFor;
  signal: Signal;
  since: number;
  tried: Target[];
  log: Log;
}

/**
 * Where the upstream has said that it did no work. Of a timeout it may have done all of it, and a
 * key that is not taken (401) is for the operator to see at once, not to be covered up.
 */
const ELSEWHERE = [402, 403, 429, 500, 502, 503, 529];
const MOST_TRIES = 3;
/** Whoever has waited for so long is told, rather than kept waiting for another upstream. */
const RETRY_WITHIN = 30 * SECOND;
const BEFORE_SAME_AGAIN = 100;

/** @param targets at least one */
export function createRoute(targets: readonly Target[], log: Log): Route {
  const inOrder = targets.toSorted((a, b) => a.member.spec.priority - b.member.spec.priority);
  return {
    post(path, bodyFor, signal) {
      const since = elapsed();
      const asking = { targets: inOrder, path, bodyFor, signal, since, tried: [], log };
      const target = choose(asking, since) ?? chooseDoubtful(asking, since);
      if (target === undefined) return Promise.reject(nobodyNow(inOrder, since));
      return ask(asking, target);
    },
  };
}

/**
 * One of the lowest priority that can take a request now and was not asked yet, by weight. One pass
 * without a list: each is taken with its share of the weights so far.
 */
function choose(
  { targets, tried }: Asking,
  at: number,
  mayTake: (obstacle: Obstacle | undefined) => boolean = isNone,
): Target | undefined {
  let chosen: Target | undefined;
  let total = 0;
  for (const target of targets) {
    const { priority, weight } = target.member.spec;
    if (chosen !== undefined && priority > chosen.member.spec.priority) break;
    if (tried.includes(target) || !mayTake(obstacleOf(target, at))) continue;
    total += weight;
    if (total === weight || Math.random() * total < weight) chosen = target;
  }
  return chosen;
}

const isNone = (obstacle: Obstacle | undefined) => obstacle === undefined;

const chooseDoubtful = (asking: Asking, at: number): Target | undefined =>
  choose(asking, at, (obstacle) => obstacle?.doubtful === true);

function ask(asking: Asking, target: Target): Promise<Exchange> {
  const { path, bodyFor, signal, tried } = asking;
  const { upstream, spec } = target.member;
  const body = bodyFor(target.modelThere, spec.accepts);
  tried.push(target);
  const watcher: Watcher = {
    answered(exchange) {
      const at = elapsed();
      const outcome = noteHead(target, watcher, exchange, at);
      if (outcome === "answered" || outcome === "refused") return exchange;
      if (outcome === "account") tellOperator(asking, target, exchange);
      const next = ELSEWHERE.includes(exchange.status) ? another(asking, at) : undefined;
      if (next !== undefined) {
        exchange.discard();
        return askAgain(asking, target, next, outcome);
      }
      exchange.retryAfter = secondsUntilFree(asking.targets, at);
      return exchange;
    },
    failed(error, sent) {
      if (signal.aborted) {
        noteHangUp(target, watcher);
        return Promise.reject(error);
      }
      const at = elapsed();
      const outcome = noteFailure(target, watcher, error, sent, at);
      if (sent) return Promise.reject(error);
      const next = another(asking, at);
      if (next !== undefined) return askAgain(asking, target, next, outcome);
      if (!mayAskSameAgain(asking, target, at)) return Promise.reject(error);
      return pause(BEFORE_SAME_AGAIN, signal).then(() => askAgain(asking, target, target, outcome));
    },
    ended(broken) {
      noteEnd(target, watcher, broken);
    },
  };
  enter(target, watcher);
  return upstream.post(path, body, signal, watcher);
}

const mayGoOn = ({ tried, since, signal }: Asking, at: number): boolean =>
  tried.length < MOST_TRIES && at - since < RETRY_WITHIN && !signal.aborted;

const another = (asking: Asking, at: number): Target | undefined =>
  mayGoOn(asking, at) ? choose(asking, at) : undefined;

/** Where nobody else serves it, and nothing was sent: it may just have been starting anew. */
function mayAskSameAgain(asking: Asking, target: Target, at: number): boolean {
  if (asking.targets.length > 1 || asking.tried.length > 1) return false;
  return mayGoOn(asking, at) && obstacleOf(target, at) === undefined;
}

function askAgain(
  asking: Asking,
  failed: Target,
  next: Target,
  outcome: Outcome,
): Promise<Exchange> {
  failed.member.retries += 1;
  const { log } = asking;
  const [upstream, other] = [failed.member.spec.name, next.member.spec.name];
  log.warn({ upstream, model: failed.model, outcome, next: other }, "asking another upstream");
  return ask(asking, next);
}

function tellOperator({ log }: Asking, { member, model }: Target, { status }: Exchange): void {
  const upstream = member.spec.name;
  log.error({ upstream, model, status }, "an upstream refuses our key or our account there");
}

function soonest(targets: readonly Target[], at: number): Obstacle | undefined {
  const obstacles = targets.map((target) => obstacleOf(target, at));
  if (obstacles.includes(undefined)) return undefined;
  return obstacles.reduce((a, b) => (a && b && b.wait < a.wait ? b : a));
}

function secondsUntilFree(targets: readonly Target[], at: number): number | undefined {
  const obstacle = soonest(targets, at);
  return obstacle && inSeconds(obstacle.wait);
}

/** Differences of the clock are wrong far behind the point: 2 s of waiting are not 3. */
const inSeconds = (wait: number): number => Math.ceil(Math.round(wait) / SECOND);

function nobodyNow(targets: readonly Target[], at: number): Refusal {
  const { reason, wait } = soonest(targets, at) ?? { reason: "model_unavailable", wait: SECOND };
  return refuse(reason, { retryAfter: inSeconds(wait), shouldRetry: true });
}
