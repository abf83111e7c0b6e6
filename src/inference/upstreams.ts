import type { Log } from "../base/log.js";
import { elapsed } from "../base/time.js";
import type { CircuitState } from "./circuit.js";
import type { Dialect } from "./kind.js";
import { createMember, createTarget, type Member, type Outcome, stateOf } from "./member.js";
import { createRoute, type Route } from "./route.js";
import type { UpstreamSpec } from "./upstream.js";

/** All upstreams of a gateway. */
export interface Upstreams {
  /** The way to who serves a model in these words. Undefined where nobody does. */
  route(model: string, dialect: Dialect): Route | undefined;
  /** Whether anybody serves a model in these words; without them, in whichever. */
  serves(model: string, dialect?: Dialect): boolean;
  /** For the operator: how each upstream stands, in the order of the configuration. */
  standing(): UpstreamStanding[];
  close(): Promise<void>;
}

export interface UpstreamStanding {
  name: string;
  /** The worst of the upstream's own circuit and those of its models. */
  state: CircuitState;
  inFlight: number;
  /** Requests since the start of this gateway, by how they went. */
  outcomes: Readonly<Record<Outcome, number>>;
  /** Requests that were asked again, of another upstream or of this one, after they failed here. */
  retries: number;
  /** Circuits that are not closed; `model` is undefined for the whole upstream. */
  troubles: Trouble[];
}

interface Trouble {
  model: string | undefined;
  state: CircuitState;
  problem: string;
}

/**
 * Opens all upstreams. A model goes to those that name it, else to those that name none.
 *
 * @param log hears of retries, of circuits that open or close, and of refusals of our own account
 */
export function createUpstreams(specs: readonly UpstreamSpec[], log: Log): Upstreams {
  const members = specs.map((spec) => createMember(spec, log));
  const named = new Set(specs.flatMap(({ models }) => [...(models?.keys() ?? [])]));
  const routes = {
    openai: createRoutes(members, named, "openai", log),
    anthropic: createRoutes(members, named, "anthropic", log),
  };
  return {
    route: (model, dialect) => routes[dialect](model),
    serves: (model, dialect) =>
      dialect === undefined
        ? named.has(model) || specs.some(({ models }) => models === null)
        : routes[dialect](model) !== undefined,
    standing: () => members.map(standingOf),
    async close() {
      await Promise.all(members.map(({ upstream }) => upstream.close()));
    },
  };
}

/** The routes of one dialect, by model. */
function createRoutes(
  members: readonly Member[],
  named: ReadonlySet<string>,
  dialect: Dialect,
  log: Log,
): (model: string) => Route | undefined {
  const speaking = members.filter(({ spec }) => spec.dialect === dialect);
  const others = speaking.filter(({ spec }) => spec.models === null);
  const routes = new Map<string, Route>();
  const open = (model: string, by: readonly Member[]): Route => {
    const route = createRoute(
      by.map((member) => createTarget(member, model, log)),
      log,
    );
    routes.set(model, route);
    return route;
  };
  for (const model of named) {
    const by = speaking.filter(({ spec }) => spec.models?.has(model));
    if (by.length > 0) open(model, by);
  }
  return (model) => {
    const route = routes.get(model);
    if (route !== undefined || named.has(model) || others.length === 0) return route;
    // Kept once it is used: whoever asks for models that are not there must fill no memory
    return { post: (...asked) => (routes.get(model) ?? open(model, others)).post(...asked) };
  };
}

function standingOf(member: Member): UpstreamStanding {
  const at = elapsed();
  const { spec, circuit, inFlight, outcomes, retries, targets } = member;
  const troubles = [{ model: undefined, circuit }, ...targets].flatMap((it) => {
    const problem = it.circuit.problem();
    if (problem === undefined) return [];
    return [{ model: it.model, state: it.circuit.state(at), problem }];
  });
  return { name: spec.name, state: stateOf(member, at), inFlight, outcomes, retries, troubles };
}
