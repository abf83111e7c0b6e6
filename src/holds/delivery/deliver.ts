import { setMaxListeners } from "node:events";
import type { HoldEnding } from "../../../workflows/contract.js";
import { refuse } from "../../base/errors.js";
import type { Id } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import type { Ngonka } from "../../base/money.js";
import { elapsed, pause } from "../../base/time.js";
import { createAcceptor, TIMES, type Times } from "./accept.js";
import {
  captureEnding,
  captureOwn,
  type OwnCapture,
  settleEnding,
  type Till,
  voidEnding,
  voidOwn,
} from "./ending.js";
import type { Handover } from "./handover.js";
import type { Spool } from "./spool.js";
import { createWaitingRoom, type Standing } from "./waiting-room.js";

/**
 * How the requests that this gateway runs itself end their holds: finished work is never unpaid
 * because something was down. What Postgres does not take within seconds is handed to a workflow
 * or, with Temporal away too, put on the local disk; that counts as accepted. From then on both the
 * gateway and whoever has it go on trying until Postgres takes it, once.
 *
 * A backend's captures do not come this way but through `Holds`: "captured" is then said only of
 * what Postgres has, and otherwise the backend is told UNAVAILABLE and asks again with its hold's
 * id.
 */
export interface Delivery {
  /**
   * Ends a hold at its cost.
   *
   * @param held what was reserved: the customer never pays more
   * @returns what the customer pays, durable
   * @throws hold_ended  a sweep came first; what was not captured then is the house's loss
   * @throws not_ready   neither Postgres, Temporal nor the disk took it in time; we go on trying
   */
  capture(capture: OwnCapture, held: Ngonka): Promise<Ngonka>;
  /** Ends a hold at zero. @throws not_ready as above */
  void(hold: { account: Id; id: Id }): Promise<void>;
  /**
   * Tries everything that waits, what other gateways have left in the spool included.
   *
   * @returns false where Postgres is away: then nobody should sweep, either
   */
  deliver(): Promise<boolean>;
  standing(): Standing;
  /** Undefined where a spool is at hand; else what is wrong with it. */
  problem(): string | undefined;
  /** Requests must have ended. What is in memory only is put on disk. */
  close(): Promise<void>;
}

export interface DeliveryOptions extends Till {
  spool: Spool;
  /** Undefined where no Temporal is configured. */
  handOver: Handover | undefined;
  log: Log;
  /** Milliseconds; tests take shorter ones. */
  times?: Partial<Times>;
}

/** Starts delivering: from now on everything that waits is tried again and again. */
export function createDelivery(options: DeliveryOptions): Delivery {
  const { spool, log } = options;
  const times = { ...TIMES, ...options.times };
  const closing = new AbortController();
  const { signal } = closing;
  setMaxListeners(0, signal); // one for each end that nothing takes
  const settle = (ending: HoldEnding) => settleEnding(options, ending);
  const room = createWaitingRoom({ spool, log, settle });

  const { soon, accept, placeElsewhere } = createAcceptor({ ...options, room, times, signal });

  let round: Promise<boolean> | undefined;
  const deliver = (): Promise<boolean> => {
    round ??= room.deliver().finally(() => {
      round = undefined;
    });
    return round;
  };

  async function lookAround(): Promise<void> {
    await spool.probe();
    for (const record of await spool.takeUp()) room.enter(record, "spool");
  }

  async function keepDelivering(): Promise<void> {
    let lookedAt = elapsed();
    while (!signal.aborted) {
      await pause(times.again, signal);
      if (elapsed() - lookedAt > times.look) {
        await lookAround();
        lookedAt = elapsed();
      }
      if (!signal.aborted) await deliver();
    }
  }
  const delivering = keepDelivering();

  return {
    async capture(capture, held) {
      const settled = await soon(() => captureOwn(options, capture));
      if (settled?.kind === "captured") return BigInt(settled.costNgonka);
      if (settled) throw refuse("hold_ended");
      await accept(captureEnding(capture));
      if (capture.cost > held) return held;
      return capture.cost;
    },
    async void(hold) {
      const settled = await soon(() => voidOwn(options, hold));
      if (!settled) await accept(voidEnding(hold));
    },
    async deliver() {
      await lookAround();
      return await deliver();
    },
    standing: () => ({ ...room.standing(), spoolBytes: spool.bytes() }),
    problem: spool.problem,
    async close() {
      closing.abort();
      await delivering;
      await Promise.all(room.inMemory().map(placeElsewhere));
      for (const { ending } of room.inMemory()) log.error({ ending }, "the end of a hold is lost");
      await spool.close();
    },
  };
}
