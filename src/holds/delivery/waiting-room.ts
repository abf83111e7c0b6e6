import type { HoldEnding, HoldSettled } from "../../../workflows/contract.js";
import { Refusal } from "../../base/errors.js";
import type { Id } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import { now, SECOND } from "../../base/time.js";
import { isOutage } from "../../db/outage.js";
import { mayPass } from "./ending.js";
import type { Spool } from "./spool.js";
import type { SpoolRecord } from "./spool-record.js";

/** Where else the end of a hold is, while Postgres has not taken it. */
export type Place = "memory" | "workflow" | "spool";

/** The end of a hold that waits for Postgres. */
export interface WaitingEnd extends SpoolRecord {
  place: Place;
}

/** How much waits, for metrics. */
export interface Standing {
  waiting: Record<Place, number>;
  /** Seconds that the oldest has waited; 0 where none does. */
  oldestSeconds: number;
  /** Ends that a workflow or the spool took since the start. */
  handedOver: { workflow: number; spool: number };
  /** Spooled ends of holds that this database does not know. */
  unknown: number;
  spoolBytes: number;
}

interface Room {
  spool: Spool;
  log: Log;
  settle(ending: HoldEnding): Promise<HoldSettled>;
}

const AT_ONCE = 500;

type Outcome = "settled" | "away" | "failed";

export type WaitingRoom = ReturnType<typeof createWaitingRoom>;

/**
 * What waits for Postgres, wherever else it is: the gateway tries it even where a workflow has it
 * too, for it is faster after an outage, and twice is the same as once.
 */
export function createWaitingRoom({ spool, log, settle }: Room) {
  const all = new Map<Id, WaitingEnd>();
  const unknown = new Set<Id>();
  const handedOver = { workflow: 0, spool: 0 };

  async function tryOne({ ending, place }: WaitingEnd): Promise<Outcome> {
    const { holdId: hold, accountId: account } = ending;
    try {
      const { kind } = await settle(ending);
      leave(hold);
      const level = kind === "too_late" ? "error" : "info";
      log[level]({ hold, account, place, kind }, "the end of a hold was delivered");
      return "settled";
    } catch (error) {
      if (error instanceof Refusal && error.reason === "not_found") {
        putAside(ending);
        return "settled";
      }
      const away = isOutage(error) || (error instanceof Refusal && mayPass(error));
      if (!away) log.error({ err: error, hold, account }, "the end of a hold was not taken");
      return away ? "away" : "failed";
    }
  }

  function leave(hold: Id): void {
    all.delete(hold);
    spool.forget(hold);
  }

  /** Its record stays on disk: this may be the spool of another database. */
  function putAside(ending: HoldEnding): void {
    all.delete(ending.holdId);
    unknown.add(ending.holdId);
    log.error({ ending }, "the spool has the end of a hold that this database does not know");
  }

  return {
    /** Where the same end waits already, that one stays. */
    enter(record: SpoolRecord, place: Place = "memory"): WaitingEnd {
      const end = all.get(record.ending.holdId) ?? { ...record, place };
      all.set(record.ending.holdId, end);
      return end;
    },
    place(end: WaitingEnd, place: "workflow" | "spool"): void {
      end.place = place;
      handedOver[place] += 1;
      // Settled while it was being written: then the record has no more use
      if (all.get(end.ending.holdId) !== end) spool.forget(end.ending.holdId);
    },
    isInMemory: (end: WaitingEnd): boolean =>
      end.place === "memory" && all.get(end.ending.holdId) === end,
    inMemory: (): WaitingEnd[] => [...all.values()].filter(({ place }) => place === "memory"),

    /** Tries everything once. @returns false where Postgres is away */
    async deliver(): Promise<boolean> {
      const ends = [...all.values()];
      for (let at = 0; at < ends.length; at += AT_ONCE) {
        const outcomes = await Promise.all(ends.slice(at, at + AT_ONCE).map(tryOne));
        if (outcomes.includes("away")) return false;
      }
      return true;
    },
    standing(): Omit<Standing, "spoolBytes"> {
      const waiting: Record<Place, number> = { memory: 0, workflow: 0, spool: 0 };
      let oldest = now();
      for (const { place, since } of all.values()) {
        waiting[place] += 1;
        oldest = Math.min(oldest, since);
      }
      const oldestSeconds = (now() - oldest) / SECOND;
      return { waiting, oldestSeconds, handedOver: { ...handedOver }, unknown: unknown.size };
    },
  };
}
