import type { Dice } from "./dice.js";
import { killMigrations } from "./migrations.js";
import {
  caught,
  delayLine,
  dropLines,
  fillDisk,
  fillSpool,
  freeze,
  kill,
  killAt,
  killAway,
  killBackend,
  oneUp,
  onLine,
  type Strike,
  swallowLine,
  terminateBackends,
} from "./strikes.js";

/** One way in which the world goes wrong. */
export interface Fault {
  name: string;
  /** How often it comes in each round of all faults. */
  times: number;
  strike: Strike;
}

const HOLDS = /authorize_hold|end_and_authorize/;
const CAPTURES = /end_hold|end_and_authorize/;
const MONEY = /authorize_hold|end_hold|end_and_authorize|extend_holds/;
const COMMITS = /^commit/i;
const SETTLES = /settle_account/;

export const FAULTS: Fault[] = [
  {
    name: "gateway killed",
    times: 3,
    strike: kill(({ gateways }, dice) => oneUp(gateways, dice)),
  },
  {
    name: "both gateways killed",
    times: 1,
    strike: async ({ gateways }) => gateways.filter((it) => it.kill()).length || undefined,
  },
  {
    name: "gateway killed between hold and upstream call",
    times: 2,
    strike: onLine(
      () => ({ statement: HOLDS, at: "answered", cut: "before" }),
      (_, gateway) => gateway.kill(),
      1,
    ),
  },
  { name: "gateway killed before the upstream answers", times: 2, strike: killAt("arrived") },
  { name: "gateway killed in the middle of a stream", times: 3, strike: killAt("midstream") },
  {
    name: "gateway killed between upstream answer and capture",
    times: 3,
    strike: killAt("answered"),
  },
  {
    name: "gateway killed while its capture commits",
    times: 2,
    strike: onLine(
      () => ({ statement: CAPTURES, at: "asked", cut: "after" }),
      (_, gateway) => gateway.kill(),
      1,
    ),
  },
  { name: "worker killed", times: 2, strike: kill(({ worker }) => worker) },
  {
    name: "worker killed in the middle of settlement",
    times: 2,
    strike: async ({ worker, workerLine }, dice) => {
      const at = dice.pick(["asked", "answered"] as const);
      const came = await caught((spring) =>
        workerLine.set(
          spring && {
            ...{ statement: SETTLES, at, cut: "after" },
            spring: () => {
              worker.kill();
              spring();
            },
          },
        ),
      );
      return came ? 1 : undefined;
    },
  },
  { name: "postgres killed", times: 3, strike: kill(({ postgres }) => postgres) },
  {
    name: "postgres killed while it commits",
    times: 2,
    strike: onLine(
      () => ({ statement: MONEY, at: "asked", cut: "none" }),
      ({ postgres }) => postgres.kill(),
      1,
    ),
  },
  { name: "postgres backend killed", times: 2, strike: killBackend },
  { name: "temporal killed", times: 2, strike: kill(({ temporal }) => temporal) },
  { name: "migration killed", times: 1, strike: killMigrations },
  {
    name: "gateway frozen",
    times: 1,
    strike: freeze(({ gateways }, dice) => oneUp(gateways, dice)),
  },
  { name: "postgres frozen", times: 1, strike: freeze(({ postgres }) => postgres) },
  { name: "worker frozen", times: 1, strike: freeze(({ worker }) => worker) },
  { name: "temporal frozen", times: 1, strike: freeze(({ temporal }) => temporal) },
  { name: "backends terminated", times: 1, strike: terminateBackends },
  { name: "lines dropped", times: 1, strike: dropLines },
  {
    name: "question cut in its middle",
    times: 1,
    strike: onLine(() => ({ statement: MONEY, at: "asked", cut: "inside" })),
  },
  {
    name: "question lost",
    times: 1,
    strike: onLine(() => ({ statement: MONEY, at: "asked", cut: "before" })),
  },
  {
    name: "answer cut in its middle",
    times: 1,
    strike: onLine(() => ({ statement: MONEY, at: "answered", cut: "inside" })),
  },
  {
    name: "answer of a commit lost",
    times: 2,
    strike: onLine((dice) => ({
      statement: dice.pick([MONEY, COMMITS]),
      at: "answered",
      cut: "before",
    })),
  },
  { name: "line delayed", times: 1, strike: delayLine },
  { name: "line swallows everything", times: 1, strike: swallowLine },
  { name: "disk full", times: 1, strike: fillDisk },
  { name: "postgres and temporal away, then a gateway killed", times: 1, strike: killAway },
  {
    name: "spool's disk full while postgres and temporal are away",
    times: 1,
    strike: fillSpool,
  },
];

/** All faults in a random order, each as often as it comes; begun anew when it is used up. */
export function faultBag(faults: readonly Fault[], dice: Dice): () => Fault {
  let bag: Fault[] = [];
  return () => {
    if (bag.length === 0) bag = faults.flatMap((it) => Array<Fault>(it.times).fill(it));
    const [drawn] = bag.splice(dice.int(0, bag.length - 1), 1);
    if (!drawn) throw new Error("there is no fault to choose");
    return drawn;
  };
}
