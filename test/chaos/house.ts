import { type Charge, endAll, type Kind } from "../../src/dev/endings.js";
import { startGuardian } from "../../src/dev/guardian.js";
import { isRunning, type Watch } from "../../src/dev/processes.js";
import { type Supervised, supervise } from "./supervised.js";

/** Everything that a run has started, and how it all ends. */
export interface House {
  watch(kind: Kind): Watch;
  keep(spec: Parameters<typeof supervise>[0]): Promise<Supervised>;
  /** Last opened, first closed; after all processes have ended. */
  onClose(close: () => unknown): void;
  close(): Promise<void>;
}

/** A guardian ends all processes even when we are killed ourselves. */
export function openHouse(): House {
  const guardian = startGuardian();
  const charges: Charge[] = [];
  const supervised: Supervised[] = [];
  const closers: (() => unknown)[] = [];
  return {
    watch: (kind) => (process) => {
      guardian.watch({ process, kind });
      charges.push({ process, kind });
    },
    async keep(spec) {
      const it = await supervise(spec);
      supervised.push(it);
      return it;
    },
    onClose: (close) => void closers.push(close),
    async close() {
      for (const it of supervised) {
        it.release();
        it.thaw();
      }
      await endAll(charges.filter((it) => isRunning(it.process)));
      for (const close of closers.reverse()) await close();
      guardian.dismiss();
    },
  };
}
