import {
  ApplicationFailure,
  allHandlersFinished,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  defineUpdate,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from "@temporalio/workflow";
import {
  type BooksActivities,
  type Order,
  type Pause,
  QUERIES,
  QUEUES,
  type Retried,
  type Settled,
  type SettlementState,
  SHARDS,
  SIGNALS,
  UPDATES,
  workflowIds,
} from "./contract.js";
import { checkOrder, codeVersion } from "./order.js";
import { age, counted, gnk, instant } from "./words.js";

const options = {
  taskQueue: QUEUES.books,
  startToCloseTimeout: "1 hour",
  heartbeatTimeout: "30 seconds",
  retry: { maximumInterval: "10 seconds" },
} as const;
const books = proxyActivities<BooksActivities>({
  ...options,
  summary: "post captured usage to the journal",
});
const { retryAccount } = proxyActivities<BooksActivities>({
  ...options,
  summary: "an operator's retry of one account",
});
const { noteOrder } = proxyActivities<BooksActivities>({
  ...options,
  summary: "write an operator's order to the audit trail",
});

const BUSY_MS = 1_000;
/** Doubles while nothing comes in, so that an idle system's history stays small. */
const IDLE_MS = 5_000;
const LONGEST_IDLE_MS = 60_000;

/** What is kept when the history is cut. */
interface Carried {
  records: number;
  amountNgonka: string;
  /** What was last posted, in words. */
  last: string;
  paused?: Pause;
}

interface AccountOrder extends Order {
  account: string;
}

const NOTHING: Carried = { records: 0, amountNgonka: "0", last: "nothing to post yet" };
const NEVER: Settled = {
  ...{ accounts: 0, records: 0, amountNgonka: "0" },
  ...{ behind: 0, oldestSeconds: 0, failed: [] },
};

const settleNow = defineSignal(SIGNALS.settleNow);
const state = defineQuery<SettlementState>(QUERIES.state);
const pause = defineUpdate<void, [Order]>(UPDATES.pause);
const resume = defineUpdate<void, [Order]>(UPDATES.resume);
const retry = defineUpdate<Retried, [AccountOrder]>(UPDATES.retryAccount);

/** Posts the captured usage of one shard of the accounts to the journal, for ever. */
export async function settlement(shard: number, carried: Carried = NOTHING): Promise<void> {
  const at: Standing = { shard, total: carried, settled: NEVER, wanted: false };
  listen(at);

  for (let idle = 0; ; ) {
    at.wanted = false;
    if (at.total.paused) {
      setCurrentDetails(inWords(at));
      await condition(() => at.total.paused === undefined);
    }
    at.settled = await books.settleShard(shard);
    at.total = add(at.total, at.settled);
    setCurrentDetails(inWords(at));

    const wait = at.settled.records > 0 ? BUSY_MS : Math.min(IDLE_MS * 2 ** idle, LONGEST_IDLE_MS);
    const woken = await condition(() => at.wanted || at.total.paused !== undefined, wait, {
      summary: "until usage may have come in",
    });
    idle = woken || at.settled.records > 0 ? 0 : Math.min(idle + 1, 10);
    if (workflowInfo().continueAsNewSuggested) {
      await condition(allHandlersFinished);
      await continueAsNew<typeof settlement>(shard, at.total);
    }
  }
}

interface Standing {
  shard: number;
  total: Carried;
  /** What the last look found. */
  settled: Settled;
  /** Somebody asked for a look at once. */
  wanted: boolean;
}

/** Takes what operators may ask and order. */
function listen(at: Standing): void {
  const subject = workflowIds.settlement(at.shard);
  setHandler(settleNow, () => {
    at.wanted = true;
  });
  setHandler(state, () => toState(at), { description: "how far this shard is" });
  setHandler(
    pause,
    async (order) => {
      at.total = { ...at.total, paused: { ...order, since: new Date().toISOString() } };
      await noteOrder({ ...order, action: "settlement.paused", subject });
    },
    { validator: checkOrder, description: "posts nothing until it is resumed" },
  );
  setHandler(
    resume,
    async (order) => {
      const { paused: _, ...total } = at.total;
      at.total = total;
      await noteOrder({ ...order, action: "settlement.resumed", subject });
    },
    { validator: checkOrder, description: "goes on after a pause" },
  );
  setHandler(
    retry,
    async ({ account, ...order }) => {
      const retried = await retryAccount(account, order);
      at.wanted = true;
      return retried;
    },
    {
      validator: (order) => checkAccountOrder(at.shard, order),
      description: "posts an account that is set aside, at once",
    },
  );
}

function checkAccountOrder(shard: number, order: Partial<AccountOrder> | undefined): void {
  const account = order?.account ?? "";
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(account)) {
    throw ApplicationFailure.nonRetryable("account: wants an account's id");
  }
  const own = Number.parseInt(account.slice(-2), 16) % SHARDS.length;
  if (own !== shard) {
    throw ApplicationFailure.nonRetryable(
      `account: ${account} is of shard ${own}: ask ${workflowIds.settlement(own)}`,
    );
  }
  checkOrder(order);
}

function toState({ shard, total, settled }: Standing): SettlementState {
  const { records, amountNgonka, paused = null } = total;
  const { behind, oldestSeconds, failed } = settled;
  return { shard, paused, records, amountNgonka, behind, oldestSeconds, setAside: failed };
}

function add(total: Carried, settled: Settled): Carried {
  if (settled.records === 0) return total;
  return {
    ...total,
    records: total.records + settled.records,
    amountNgonka: String(BigInt(total.amountNgonka) + BigInt(settled.amountNgonka)),
    last: `${instant(new Date())}: ${posted(settled)}`,
  };
}

function posted({ records, amountNgonka, accounts }: Settled): string {
  const what = `${counted(records, "record")} (${gnk(amountNgonka)})`;
  return `posted ${what} of ${counted(accounts, "account")}`;
}

/**
 * Names the shard too: the summary that a workflow was started with is lost when it continues as
 * new.
 */
function inWords({ shard, total, settled }: Standing): string {
  const { behind, oldestSeconds, failed } = settled;
  const lag = behind === 0 ? "0 behind" : `${behind} behind, the oldest ${age(oldestSeconds)}`;
  const all = `in all ${counted(total.records, "record")}, ${gnk(total.amountNgonka)}`;
  const problems = failed.map(({ account, reason, nextAt }) => {
    const again = nextAt ? `, tried again at ${instant(new Date(nextAt))}` : "";
    return `\n\naccount ${account} cannot be settled${again}: ${reason}`;
  });
  const held = total.paused ? `${pausedInWords(total.paused)}\n\n` : "";
  const looked = `accounts of shard ${shard}, ${total.last}; ${lag}`;
  return `${held}${looked}\n\n${all}; code ${codeVersion()}${problems.join("")}`;
}

const pausedInWords = ({ by, reason, since }: Pause): string =>
  `PAUSED by ${by} at ${instant(new Date(since))}: ${reason}. Captured usage waits; send resume`;
