import { activityInfo } from "@temporalio/activity";
import type {
  BooksActivities,
  PeriodActivities,
  PeriodRef,
  PeriodTotals,
} from "../../workflows/contract.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import { beat } from "../temporal/beat.js";
import {
  closePeriod,
  openPeriod,
  type Period,
  type ResetTotals,
  readPeriod,
  rollCounters,
} from "./periods.js";
import { makePartitions, sweepHolds } from "./sweep.js";

/** What workflows may ask about holds that were left behind. */
export function holdActivities(sql: Sql): Pick<BooksActivities, "sweepHolds"> {
  return { sweepHolds: () => sweepHolds(sql, beat) };
}

/** What workflows may ask when a day or a month begins. */
export function periodActivities(sql: Sql): PeriodActivities {
  return {
    openPeriod: async (ref) => {
      const period = read(ref);
      const state = await openPeriod(sql, period);
      if (state.kind === "early") return state;
      if (state.kind === "open") return { kind: "open", ended: period.ended.name };
      return { kind: "finished", totals: inJson(period, state.totals) };
    },
    rollCounters: async (ref) => {
      const after: Id | undefined = activityInfo().heartbeatDetails;
      await rollCounters(sql, read(ref), { ...(after && { after }), onPage: beat });
    },
    closePeriod: async (ref) => {
      const period = read(ref);
      return inJson(period, await closePeriod(sql, period, beat));
    },
    makePartitions: () => makePartitions(sql),
  };
}

const read = ({ kind, period }: PeriodRef): Period => readPeriod(kind, period);

const inJson = ({ ended }: Period, { keysRolled, requests, cost }: ResetTotals): PeriodTotals => ({
  ended: ended.name,
  keysRolled: Number(keysRolled),
  requests: Number(requests),
  costNgonka: cost.toString(),
});
