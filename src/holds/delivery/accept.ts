import type { HoldEnding, HoldSettled } from "../../../workflows/contract.js";
import { refuse } from "../../base/errors.js";
import type { Log } from "../../base/log.js";
import { elapsed, MINUTE, now, pause, SECOND } from "../../base/time.js";
import { mayPass } from "./ending.js";
import type { Handover } from "./handover.js";
import type { Spool } from "./spool.js";
import type { WaitingEnd, WaitingRoom } from "./waiting-room.js";

export type Times = typeof TIMES;

/** Milliseconds. */
export const TIMES = {
  /** A restart of Postgres after a crash, and no longer: a caller waits for the answer meanwhile. */
  wait: 3 * SECOND,
  /** Between two tries of one end, and of all that waits. */
  again: SECOND,
  /** After this a caller no longer waits for an end that nothing takes. */
  patience: MINUTE,
  /** Between two probes of the spool and two looks for what other gateways have left. */
  look: 10 * SECOND,
};

const PAUSE = 200;

interface Accepting {
  room: WaitingRoom;
  spool: Spool;
  handOver: Handover | undefined;
  log: Log;
  times: Times;
  /** Aborts when the gateway stops. */
  signal: AbortSignal;
}

/** How the end of a hold becomes durable while its caller waits. */
export function createAcceptor({ room, spool, handOver, log, times, signal }: Accepting) {
  /** Resolves once it is durable somewhere, or settled after all. */
  async function makeDurable(end: WaitingEnd): Promise<void> {
    while (!signal.aborted && room.isInMemory(end)) {
      if (await placeElsewhere(end)) return;
      await pause(times.again, signal);
    }
  }

  /** @returns false where neither Temporal nor the disk took it */
  async function placeElsewhere(end: WaitingEnd): Promise<boolean> {
    if (handOver && (await handOver(end.ending))) {
      room.place(end, "workflow");
      return true;
    }
    const { ending, since } = end;
    const spooled = await spool.append({ ending, since }).then(
      () => true,
      () => false,
    );
    if (spooled) room.place(end, "spool");
    return spooled;
  }

  return {
    placeElsewhere,

    /** Tries Postgres. @returns undefined where it did not take it within `wait` */
    async soon(work: () => Promise<HoldSettled>): Promise<HoldSettled | undefined> {
      const until = elapsed() + times.wait;
      for (let left = times.wait; left > 0; left = until - elapsed()) {
        try {
          return await within(left, work());
        } catch (error) {
          if (!mayPass(error)) throw error;
        }
        await pause(Math.min(PAUSE, until - elapsed()));
      }
      return undefined;
    },

    /** @throws not_ready where nothing took it within `patience`; it goes on being tried */
    async accept(ending: HoldEnding): Promise<void> {
      const end = room.enter({ ending, since: now() });
      await within(times.patience, makeDurable(end));
      if (room.isInMemory(end)) throw refuse("not_ready");
      const { holdId: hold, accountId: account } = ending;
      log.warn({ hold, account, place: end.place }, "Postgres did not take the end of a hold");
    },
  };
}

/** @returns undefined where `work` takes longer than `ms`; it goes on then */
function within<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(undefined), ms);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
