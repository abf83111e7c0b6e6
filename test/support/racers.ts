import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { TYPESCRIPT } from "../../src/dev/processes.js";
import type { RaceOrder, RaceReport } from "./racer.js";

const RACER = fileURLToPath(new URL("./racer.ts", import.meta.url));
const PROCESSES = 4;

export type Racers = Awaited<ReturnType<typeof startRacers>>;

/** Four processes, each with the money core on one and the same database. */
export async function startRacers(databaseUrl: string) {
  const racers = Array.from({ length: PROCESSES }, () =>
    fork(RACER, [databaseUrl], { execArgv: TYPESCRIPT }),
  );
  await Promise.all(racers.map((racer) => once(racer, "message")));

  /** Each process gets its own order, all at once. @returns what each has to report */
  const race = (orders: RaceOrder[]): Promise<RaceReport[]> =>
    Promise.all(orders.map((order, i) => run(at(racers, i), order)));

  return {
    race,
    /** All processes ask for ever new holds until `stop`, which tells what they were answered. */
    pour(order: { account: string; child: string; amount: bigint; lanes?: number }) {
      const { amount, lanes = 8, ...payer } = order;
      const one = { kind: "pour", ...payer, lanes, amount: amount.toString() } as const;
      const reports = race(racers.map(() => one));
      return {
        async stop(): Promise<Record<string, number>> {
          for (const racer of racers) racer.send({ kind: "stop" } satisfies RaceOrder);
          return tally(await reports);
        },
      };
    },
    async stop() {
      const running = racers.filter((racer) => racer.exitCode === null);
      const ended = running.map((racer) => once(racer, "exit"));
      for (const racer of running) racer.disconnect();
      await Promise.all(ended);
    },
  };
}

/** How often each answer was given in all processes together. */
export function tally(reports: RaceReport[]): Record<string, number> {
  const all: Record<string, number> = {};
  for (const report of reports) {
    for (const [answer, ids] of Object.entries(report)) {
      all[answer] = (all[answer] ?? 0) + ids.length;
    }
  }
  return all;
}

async function run(racer: ChildProcess, order: RaceOrder): Promise<RaceReport> {
  const answer = once(racer, "message");
  racer.send(order);
  const [report] = await answer;
  return report as RaceReport;
}

function at<T>(list: readonly T[], i: number): T {
  const item = list[i];
  if (item === undefined) throw new Error(`there are only ${list.length} racers`);
  return item;
}
