import type { Line } from "../base/line.js";
import type { Log } from "../base/log.js";
import type { Delivery } from "../holds/delivery/deliver.js";
import type { Holds } from "../holds/holds.js";
import type { Answers } from "../idempotency/answers.js";
import type { AliasBook } from "../keys/aliases.js";
import type { PriceBook } from "../pricing/prices.js";
import { complete } from "./complete.js";
import { createKeeper } from "./keeper.js";
import type { Asked, Dialect, Kind } from "./kind.js";
import { listModels, type Model, namesOnList } from "./models.js";
import { completeOnce, type Once, type OnceAnswer, streamOnce } from "./once.js";
import type { Payer } from "./payment.js";
import { type EventStream, stream } from "./stream.js";
import type { Upstreams } from "./upstreams.js";
import type { Json } from "./values.js";

export interface InferenceDeps {
  holds: Holds;
  /** How its own requests end their holds. */
  delivery: Delivery;
  prices: PriceBook;
  /** What owners call models. */
  aliases: AliasBook;
  upstreams: Upstreams;
  /** What was answered to requests with an idempotency key. */
  answers: Answers;
  log: Log;
}

/**
 * Paid inference, for every door. A line is aborted when the caller hangs up, and by us when the
 * hold is lost.
 */
export interface Inference {
  /** An answer in one piece; see complete.ts. */
  complete<Request extends Asked>(
    payer: Payer,
    kind: Kind<Request>,
    request: Request,
    line: Line,
  ): Promise<Json>;
  /** An answer as a stream; see stream.ts. */
  stream<Request extends Asked>(
    payer: Payer,
    kind: Kind<Request>,
    request: Request,
    line: Line,
  ): Promise<EventStream>;
  /** An answer in one piece to whoever may repeat the request; see once.ts. */
  completeOnce<Request extends Asked>(
    payer: Payer,
    kind: Kind<Request>,
    request: Request,
    line: Line,
    once: Once,
  ): Promise<OnceAnswer>;
  /** The same as a stream, which is not kept; see once.ts. */
  streamOnce<Request extends Asked>(
    payer: Payer,
    kind: Kind<Request>,
    request: Request,
    line: Line,
    once: Once,
  ): Promise<EventStream>;
  /** Whether a model is served in these words, by the name that a caller asks for. */
  speaks(payer: Pick<Payer, "account">, model: string, dialect: Dialect): Promise<boolean>;
  /**
   * The models that a key may use, by the names that its owner's clients see.
   *
   * @param dialect for doors that know no other: only those that are served in these words
   */
  models(payer: Pick<Payer, "account" | "models">, dialect?: Dialect): Promise<Model[]>;
  /** The models of a key's list by the names that its holder may know; null: all. */
  namesOnList(payer: Pick<Payer, "account" | "models">): Promise<string[] | null>;
  /** Stops the timer that keeps holds alive. Requests must have ended. */
  close(): void;
}

export function createInference(deps: InferenceDeps): Inference {
  const { holds, aliases, upstreams, log } = deps;
  const keeper = createKeeper(holds, log);
  const paying = { ...deps, keeper };
  return {
    complete: (payer, kind, request, line) => complete(paying, payer, kind, request, line),
    stream: (payer, kind, request, line) => stream(paying, payer, kind, request, line),
    completeOnce: (payer, kind, request, line, once) =>
      completeOnce(paying, payer, kind, request, line, once),
    streamOnce: (payer, kind, request, line, once) =>
      streamOnce(paying, payer, kind, request, line, once),
    async speaks({ account }, asked, dialect) {
      const model = (await aliases.of(account)).modelOf(asked);
      return model !== undefined && upstreams.route(model, dialect) !== undefined;
    },
    models: (payer, dialect) => listModels(deps, payer, dialect),
    namesOnList: (payer) => namesOnList(deps, payer),
    close: () => keeper.close(),
  };
}
