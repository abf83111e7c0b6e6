import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Charge } from "./endings.js";
import { nodeArgs } from "./processes.js";

export interface Guardian {
  /** Entrusts a process: it is ended when we are gone, in whatever way we went. */
  watch(charge: Charge): void;
  /** Ends the guardian, and with it all that is still running. */
  dismiss(): void;
}

/**
 * Starts the guardian in a session of its own, so that no Ctrl-C and no kill of our group reaches
 * it.
 */
export function startGuardian(): Guardian {
  const file = fileURLToPath(import.meta.url.replace(/guardian(\.\w+)$/, "guardian-main$1"));
  const child = spawn(process.execPath, nodeArgs(file), {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
    cwd: "/",
  });
  child.unref();
  // A guardian that was killed must not take us down with it; the next start takes over what is
  // left
  child.stdin.on("error", () => {});
  return {
    watch: (charge) => void child.stdin.write(`${JSON.stringify(charge)}\n`),
    dismiss: () => void child.stdin.end(),
  };
}
