import type { ServerResponse } from "node:http";
import { now, SECOND } from "../base/time.js";
import { admit } from "../inference/admit.js";
import type { RateAnswer } from "../keys/rate-limit.js";
import type { Serve, Visit } from "./door.js";

type Tell = (response: ServerResponse, rate: RateAnswer) => void;

/**
 * A request that is paid for: it is counted against its limits, and holds its slot while it runs.
 *
 * @param tell says in headers what is left to the key
 */
export const admitted =
  <V extends Visit>(tell: Tell, serve: Serve<V>): Serve<V> =>
  async (deps, visit, caller) => {
    const leave = await admit(deps.limiter, caller, (rate) => tell(visit.response, rate));
    try {
      await serve(deps, visit, caller);
    } finally {
      leave();
    }
  };

/** What is left to a key, as the IETF's draft says it, and as OpenAI does. */
export const tellOpenAi: Tell = (response, rate) => {
  tellStandard(response, rate);
  response.setHeader("x-ratelimit-limit-requests", rate.limit);
  response.setHeader("x-ratelimit-remaining-requests", rate.remaining);
  response.setHeader("x-ratelimit-reset-requests", `${rate.resetSeconds}s`);
};

/** The same as the IETF's draft says it, and as Anthropic does. */
export const tellAnthropic: Tell = (response, rate) => {
  tellStandard(response, rate);
  const reset = new Date(now() + rate.resetSeconds * SECOND);
  response.setHeader("anthropic-ratelimit-requests-limit", rate.limit);
  response.setHeader("anthropic-ratelimit-requests-remaining", rate.remaining);
  response.setHeader("anthropic-ratelimit-requests-reset", reset.toISOString());
};

const tellStandard: Tell = (response, { limit, remaining, resetSeconds }) => {
  response.setHeader("ratelimit-policy", `"requests";q=${limit};w=60`);
  response.setHeader("ratelimit", `"requests";r=${remaining};t=${resetSeconds}`);
};
