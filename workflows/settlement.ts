import {
  condition,
  continueAsNew,
  defineSignal,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from "@temporalio/workflow";
import { type BooksActivities, QUEUES, type Settled, SIGNALS } from "./contract.js";
import { age, counted, gnk, instant } from "./words.js";

const books = proxyActivities<BooksActivities>({
  taskQueue: QUEUES.books,
  startToCloseTimeout: "1 hour",
  heartbeatTimeout: "30 seconds",
  retry: { maximumInterval: "10 seconds" },
  summary: "post captured usage to the journal",
});

const BUSY_MS = 1_000;
const IDLE_MS = 5_000;

/** What is kept when the history is cut. */
interface Carried {
  records: number;
  amountNgonka: string;
  /** What was last posted, in words. */
  last: string;
}

const NOTHING: Carried = { records: 0, amountNgonka: "0", last: "nothing to post yet" };

const settleNow = defineSignal(SIGNALS.settleNow);

/** Posts the captured usage of one shard of the accounts to the journal, for ever. */
export async function settlement(shard: number, carried: Carried = NOTHING): Promise<void> {
  let wanted = false;
  setHandler(settleNow, () => {
    wanted = true;
  });
  let total = carried;

  for (;;) {
    wanted = false;
    const settled = await books.settleShard(shard);
    total = add(total, settled);
    setCurrentDetails(inWords(shard, total, settled));

    const wait = settled.records > 0 ? BUSY_MS : IDLE_MS;
    await condition(() => wanted, wait, { summary: "until usage may have come in" });
    if (workflowInfo().continueAsNewSuggested) {
      await continueAsNew<typeof settlement>(shard, total);
    }
  }
}

function add(total: Carried, settled: Settled): Carried {
  if (settled.records === 0) return total;
  return {
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
function inWords(
  shard: number,
  total: Carried,
  { behind, oldestSeconds, failed }: Settled,
): string {
  const lag = behind === 0 ? "0 behind" : `${behind} behind, the oldest ${age(oldestSeconds)}`;
  const all = `in all ${counted(total.records, "record")}, ${gnk(total.amountNgonka)}`;
  const problems = failed.map((it) => `\n\naccount ${it.account} cannot be settled: ${it.reason}`);
  return `accounts of shard ${shard}, ${total.last}; ${lag}\n\n${all}${problems.join("")}`;
}
