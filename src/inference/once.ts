import { Refusal } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Line } from "../base/line.js";
import type { Answers, Claim, KeptAnswer } from "../idempotency/answers.js";
import { complete } from "./complete.js";
import type { Asked, Kind } from "./kind.js";
import type { Payer, Paying } from "./payment.js";
import { type EventStream, stream } from "./stream.js";

/** What tells that a request may come again. */
export interface Once {
  /** Of the caller's choice, checked. */
  key: string;
  requestId: Id;
}

export interface OnceAnswer {
  /** JSON: the same bytes each time. */
  text: string;
  /** Whether it was given before. */
  replayed: boolean;
}

type OncePaying = Paying & { answers: Answers };

/**
 * As `complete`, for a request that may come again with the same key: it is run and charged once,
 * and whoever repeats it within 24 hours gets the same answer, waiting where it still runs. What
 * was refused, failed or hung up on is not remembered. `Answers` says what holds when processes
 * die.
 *
 * @throws what `complete` and `Answers.claim` throw
 */
export async function completeOnce<Request extends Asked>(
  paying: OncePaying,
  payer: Payer,
  kind: Kind<Request>,
  request: Request,
  line: Line,
  once: Once,
): Promise<OnceAnswer> {
  const { answers } = paying;
  const found = await claimOrRecall(paying, payer, kind, request, line, once);
  if ("text" in found) return { text: found.text, replayed: true };

  const { claim } = found;
  let text = "";
  return await orFree(answers, claim, async () => {
    await complete(paying, payer, kind, request, line, {
      hold: claim.hold,
      keep(answer, { inputTokens, outputTokens, estimated }, cost) {
        text = JSON.stringify(answer);
        return answers.keep(claim, { cost, inputTokens, outputTokens, estimated }, text);
      },
    });
    return { text, replayed: false };
  });
}

/**
 * As `stream`, for a request that may come again with the same key: it is run and charged once. A
 * stream is not kept, so whoever repeats it is told that it was charged, as `answer_not_kept`.
 *
 * @throws what `stream` and `Answers.claim` throw
 */
export async function streamOnce<Request extends Asked>(
  paying: OncePaying,
  payer: Payer,
  kind: Kind<Request>,
  request: Request,
  line: Line,
  once: Once,
): Promise<EventStream> {
  const found = await claimOrRecall(paying, payer, kind, request, line, once);
  if ("text" in found) throw new Error("a stream was kept as an answer in one piece");
  const { claim } = found;
  return await orFree(paying.answers, claim, () =>
    stream(paying, payer, kind, request, line, claim.hold),
  );
}

/** Runs an attempt. Where it comes to nothing, its key is free for the next. */
async function orFree<T>(answers: Answers, claim: Claim, attempt: () => Promise<T>): Promise<T> {
  try {
    return await attempt();
  } catch (error) {
    await answers.free(claim);
    throw error;
  }
}

async function claimOrRecall<Request extends Asked>(
  { answers, delivery }: OncePaying,
  { account, child }: Payer,
  { path: route }: Pick<Kind<Request>, "path">,
  { fingerprint }: Request,
  { signal }: Line,
  once: Once,
): Promise<{ claim: Claim } | KeptAnswer> {
  for (;;) {
    const found = await answers.claim({ account, child, route, fingerprint, ...once }, signal);
    if ("claim" in found || found.captured) return found;
    const { hold: id, ending } = found;
    try {
      const capture = { account, id, ...ending, fingerprint, own: true } as const;
      await delivery.capture(capture, ending.cost);
      return found;
    } catch (error) {
      // Swept before anybody captured it: nobody was charged, and the key is free
      if (!(error instanceof Refusal) || error.reason !== "hold_ended") throw error;
    }
  }
}
