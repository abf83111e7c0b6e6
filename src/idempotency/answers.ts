import { refuse } from "../base/errors.js";
import { type Id, newId } from "../base/ids.js";
import type { Signal } from "../base/line.js";
import type { Log } from "../base/log.js";
import { elapsed, MINUTE, pause, SECOND } from "../base/time.js";
import { createVault } from "../base/vault.js";
import { createBatcher } from "../db/batcher.js";
import { withPatience } from "../db/outage.js";
import type { Sql } from "../db/sql.js";
import { hashOfKey } from "./key.js";
import {
  type Claim,
  claimRequests,
  type Ending,
  type Found,
  freeRequests,
  inOrder,
  keepAnswers,
  type NewAnswer,
  type NewClaim,
} from "./request-store.js";

export type { Claim, Ending } from "./request-store.js";

/** A request that came with a key. */
export interface KeyedRequest {
  account: Id;
  child: Id;
  key: string;
  /** What is asked, and the fingerprint of how: the same key with another is a conflict. */
  route: string;
  fingerprint: bigint;
  requestId: Id;
}

/** An answer that was given before. */
export interface KeptAnswer {
  text: string;
  hold: Id;
  /** False where its hold may still be open: it must be captured before the answer leaves. */
  captured: boolean;
  ending: Ending;
}

/**
 * Keys of requests that run under a hold, and their answers, for 24 hours.
 *
 * A key belongs to the hold of one attempt. Its answer is stored before that hold is captured, and
 * storing it fails where the key has passed to another attempt meanwhile, which can only be once
 * this one's hold has ended at zero or was never seen. So of all attempts with one key at most one
 * is ever captured, wherever a process dies:
 *
 * - after the claim, before the hold: nothing was spent; the key is free 20 s later
 * - under the hold, before the answer is stored: the hold is swept at zero, then the key is free
 * - after that, before the capture: who repeats the request captures that same hold and gets the
 *   answer; where a sweep came first nobody was charged, and the request runs anew
 * - after the capture: who repeats the request gets the answer
 * - a gateway that was only thought dead finds its claim lost, and gives its hold back
 * - Postgres does not take the answer, but a capture is accepted elsewhere (delivery): the answer
 *   leaves and is not kept. Until that capture arrives a repeat is told to wait, and then that it
 *   was charged; where a sweep comes before it, the request runs anew and the first was free
 */
export interface Answers {
  /**
   * Claims the key, or waits for the request that has it.
   *
   * @param signal aborts when the caller hangs up; its reason is thrown then
   * @returns a claim, to be kept or freed, or the answer that was given before
   * @throws idempotency_conflict  the key was used for something else
   * @throws answer_not_kept       the request was answered and charged; nobody has its answer
   * @throws busy                  it still runs after a minute
   */
  claim(request: KeyedRequest, signal: Signal): Promise<{ claim: Claim } | KeptAnswer>;
  /**
   * Stores the answer and what its hold is to be captured at. Where Postgres is away the answer is
   * not kept, and that is no error.
   *
   * @throws busy  the claim was lost: the hold must not be captured
   */
  keep(claim: Claim, ending: Ending, text: string): Promise<void>;
  /** Gives the key back, for a request that came to nothing. Never rejects. */
  free(claim: Claim): Promise<void>;
}

export interface AnswersOptions {
  sql: Sql;
  /** Of the operator, newest first. */
  secrets: readonly string[];
  log: Log;
  /** Milliseconds for which a request waits for the one that has its key. */
  wait?: number;
}

/** Bytes of the largest answer that is kept. */
const MAX_KEPT_BYTES = 1024 * 1024;
const PATIENCE = 5 * SECOND;
const KEEP_PATIENCE = 3 * SECOND;
const DEPTH = 20_000;
const FIRST_LOOK = 25;
const LONGEST_LOOK = 500;
const RETRY_AFTER = 5;

export function createAnswers({ sql, secrets, log, wait = MINUTE }: AnswersOptions): Answers {
  const vault = createVault(secrets, "idempotent answers");
  const keyOf = ({ scope, hash }: Claim) => scope + hash;
  const claimer = createBatcher<NewClaim, Found | "claimed">(
    inSameOrder((claims) => withPatience(PATIENCE, () => claimAll(sql, claims))),
    { limit: 256, depth: DEPTH, keyOf },
  );
  const keeper = createBatcher<NewAnswer, "kept" | "lost">(
    inSameOrder((answers) => withPatience(KEEP_PATIENCE, () => keepAll(sql, answers))),
    { limit: 32, depth: DEPTH, keyOf },
  );
  const freer = createBatcher<Claim, "free">(
    inSameOrder(async (claims) => {
      await withPatience(KEEP_PATIENCE, () => freeRequests(sql, claims));
      return claims.map(() => "free");
    }),
    { limit: 256, depth: DEPTH, keyOf },
  );

  function open({ scope, hash }: Claim, found: Found): KeptAnswer {
    const { requestId, hold, keyName, sealed, captured, cost, estimated } = found;
    if (keyName === null || sealed === null) throw notKept(requestId);
    const { inputTokens, outputTokens } = found;
    const ending = { cost, inputTokens, outputTokens, estimated };
    try {
      const text = vault.open({ keyName, sealed }, placeOf({ scope, hash, hold }));
      return { text, hold, captured, ending };
    } catch (error) {
      log.error({ err: error, hold }, "an answer that was kept cannot be read");
      throw notKept(requestId);
    }
  }

  return {
    async claim({ child: scope, key, ...request }, signal) {
      const claim = { scope, hash: hashOfKey(key), hold: newId() };
      const until = elapsed() + wait;
      for (let look = FIRST_LOOK; ; look = Math.min(look * 2, LONGEST_LOOK)) {
        const found = await claimer.call({ ...request, ...claim });
        if (found === "claimed") return { claim };
        if (found.state === "conflict")
          throw refuse("idempotency_conflict", { shouldRetry: false });
        if (found.state === "unstored") throw notKept(found.requestId);
        if (found.state === "answered") return open(claim, found);
        if (elapsed() > until) throw stillRuns();
        await pause(look, signal);
        signal.throwIfAborted();
      }
    },
    async keep(claim, ending, text) {
      const fits = Buffer.byteLength(text) <= MAX_KEPT_BYTES;
      const sealed = fits ? vault.seal(text, placeOf(claim)) : undefined;
      const outcome = await keeper.call({ ...claim, ...ending, sealed }).catch((error: unknown) => {
        log.error({ err: error, hold: claim.hold }, "an answer was not kept for its repetition");
      });
      if (outcome === "lost") throw stillRuns();
    },
    async free(claim) {
      await freer.call(claim).catch((error: unknown) => {
        log.warn({ err: error, hold: claim.hold }, "an idempotency key was not freed at once");
      });
    },
  };
}

const placeOf = ({ scope, hash, hold }: Claim): string => `${scope}/${hash}/${hold}`;

const stillRuns = () =>
  refuse("busy", {
    message: "the request with this idempotency key still runs",
    retryAfter: RETRY_AFTER,
    shouldRetry: true,
  });

const notKept = (requestId: Id) =>
  refuse("answer_not_kept", { shouldRetry: false, facts: { original_request_id: requestId } });

async function claimAll(sql: Sql, claims: NewClaim[]): Promise<(Found | "claimed")[]> {
  const taken = await claimRequests(sql, claims);
  if (taken.length === 0) return claims.map(() => "claimed");
  const byItem = new Map(taken.map((found) => [found.item, found]));
  return claims.map((_, i) => byItem.get(i + 1) ?? "claimed");
}

async function keepAll(sql: Sql, answers: NewAnswer[]): Promise<("kept" | "lost")[]> {
  const lost = await keepAnswers(sql, answers);
  return answers.map((_, i) => (lost.includes(i + 1) ? "lost" : "kept"));
}

/** Runs a batch in the order in which everybody locks rows, and answers in that of its items. */
function inSameOrder<Item extends Claim, Answer>(run: (items: Item[]) => Promise<Answer[]>) {
  return async (items: Item[]): Promise<Answer[]> => {
    const sorted = [...items].sort(inOrder);
    const answers = await run(sorted);
    const byItem = new Map(sorted.map((item, i) => [item, answers[i] as Answer]));
    return items.map((item) => byItem.get(item) as Answer);
  };
}
