import {
  allHandlersFinished,
  CancellationScope,
  condition,
  defineQuery,
  defineUpdate,
  proxyActivities,
  setCurrentDetails,
  setHandler,
} from "@temporalio/workflow";
import {
  type BooksActivities,
  type HoldEnding,
  type HoldSettled,
  type Order,
  QUERIES,
  QUEUES,
  UPDATES,
} from "./contract.js";
import { checkOrder } from "./order.js";
import { gnk } from "./words.js";

const books = proxyActivities<BooksActivities>({
  taskQueue: QUEUES.books,
  startToCloseTimeout: "30 seconds",
  // Gateways wait 45 s with sweeping after an outage: by then this was tried several times
  retry: { initialInterval: "1 second", maximumInterval: "10 seconds" },
  summary: "end the hold, once Postgres takes it",
});
const { noteOrder } = proxyActivities<BooksActivities>({
  taskQueue: QUEUES.books,
  startToCloseTimeout: "30 seconds",
  retry: { maximumInterval: "10 seconds" },
  summary: "write an operator's order to the audit trail",
});

const state = defineQuery<{ holdId: string; settled: HoldSettled | null }>(QUERIES.state);
const giveUp = defineUpdate<void, [Order]>(UPDATES.giveUp);

/**
 * Ends one hold whose end Postgres did not take when it came, however long that takes. The hold's
 * id makes it safe beside the gateway, which goes on trying too. Where an operator gives up, the
 * hold is left to the sweep after its deadline.
 */
export async function settleHold(ending: HoldEnding): Promise<HoldSettled> {
  const { holdId, accountId } = ending;
  let settled: HoldSettled | null = null;
  let left: Order | undefined;
  setHandler(state, () => ({ holdId, settled }), { description: "what came of it so far" });
  setHandler(
    giveUp,
    async (order) => {
      left = order;
      const deed = { ...order, action: "hold.given_up", subject: holdId, account: accountId };
      await noteOrder(deed);
    },
    { validator: checkOrder, description: "leaves the hold to the sweep after its deadline" },
  );
  setCurrentDetails(`${wanted(ending)}: waiting for Postgres`);

  const trying = new CancellationScope();
  const tried = trying.run(() => books.settleHold(ending));
  settled = await Promise.race([tried, whenGivenUp(() => left !== undefined)]);
  if (settled.kind === "given_up") {
    tried.catch(() => {}); // its cancellation says nothing new
    trying.cancel();
  }
  const why = left ? ` by ${left.by}: ${left.reason}` : "";
  setCurrentDetails(`${wanted(ending)}: ${inWords(settled)}${why}`);
  await condition(allHandlersFinished);
  return settled;
}

async function whenGivenUp(left: () => boolean): Promise<HoldSettled> {
  await condition(left);
  return { kind: "given_up" };
}

const wanted = ({ holdId, capture }: HoldEnding): string =>
  capture ? `capture ${gnk(capture.costNgonka)} of hold ${holdId}` : `give back hold ${holdId}`;

function inWords(settled: HoldSettled): string {
  if (settled.kind === "captured") return `done, the customer pays ${gnk(settled.costNgonka)}`;
  if (settled.kind === "voided") return "done";
  if (settled.kind === "given_up") return "left to the sweep after its deadline";
  return "the hold had ended before; what was not captured then is on record as the house's loss";
}
