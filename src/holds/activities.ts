import { ApplicationFailure } from "@temporalio/activity";
import type {
  BooksActivities,
  HoldEnding,
  HoldSettled,
  PeriodActivities,
  PeriodRef,
  PeriodTotals,
} from "../../workflows/contract.js";
import { Refusal } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import { beat, whileBeating } from "../temporal/beat.js";
import { noteResets } from "../webhooks/notices.js";
import { settleEnding } from "./delivery/ending.js";
import { createHolds } from "./engine.js";
import { makePartitions } from "./partitions.js";
import {
  childrenReset,
  closePeriod,
  openPeriod,
  type Period,
  type ResetTotals,
  readPeriod,
  rollCounters,
  sumUpUsage,
} from "./periods.js";
import { sweepHolds } from "./sweep.js";

/** What workflows may ask about holds that were left behind. */
export function holdActivities(sql: Sql): Pick<BooksActivities, "sweepHolds" | "settleHold"> {
  const till = { sql, holds: createHolds(sql, { gateway: null }) };
  return {
    sweepHolds: () => sweepHolds(sql, beat),
    settleHold: (ending: HoldEnding): Promise<HoldSettled> =>
      settleEnding(till, ending).catch((error: unknown) => {
        if (!(error instanceof Refusal) || error.reason !== "not_found") throw error;
        throw ApplicationFailure.nonRetryable("this database knows no such hold");
      }),
  };
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
    rollCounters: (ref) =>
      whileBeating(({ from, beat: onPage }) =>
        rollCounters(sql, read(ref), { ...(from && { after: from }), onPage }),
      ),
    sumUpUsage: (ref) =>
      whileBeating(({ from, beat: onPage }) =>
        sumUpUsage(sql, read(ref), { ...(from && { after: from }), onPage }),
      ),
    tellOfResets: (ref) => {
      const period = read(ref);
      const pages = (after: Id | null) => childrenReset(sql, period, after);
      return whileBeating(({ beat: onPage }) => noteResets(sql, endOf(period), pages, onPage));
    },
    closePeriod: async (ref) => {
      const period = read(ref);
      const totals = await whileBeating(({ from, beat: onPage }) =>
        closePeriod(sql, period, { ...(from && { after: from }), onPage }),
      );
      return inJson(period, totals);
    },
    makePartitions: () => makePartitions(sql),
  };
}

/** A period that the calendar does not have will not be there when it is tried again either. */
function read({ kind, period }: PeriodRef): Period {
  try {
    return readPeriod(kind, period);
  } catch (error) {
    throw ApplicationFailure.nonRetryable(error instanceof Error ? error.message : String(error));
  }
}

const endOf = ({ kind, ended, firstDay }: Period) => ({
  ...{ kind, ended: ended.firstDay, begins: firstDay },
});

const inJson = ({ ended }: Period, { keysRolled, requests, cost }: ResetTotals): PeriodTotals => ({
  ended: ended.name,
  keysRolled: Number(keysRolled),
  requests: Number(requests),
  costNgonka: cost.toString(),
});
