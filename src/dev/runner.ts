import { commandOf, identify, isRunning, type Process, parentOf } from "./processes.js";

const CHECK_EVERY = 500;
const LEVELS = 3;
const RUNNER = /\b(npm|pnpm|yarn)\b/;

/**
 * Calls back once when the `npm` above us is gone, or the shell between us: whoever ends `npm
 * start` by its pid means us, and a shell passes no signal on. Does nothing where we were not
 * started by npm.
 */
export function whenRunnerEnds(callBack: () => void): void {
  const chain = chainToRunner(process.pid, LEVELS);
  if (chain.length === 0) return;
  const timer = setInterval(() => {
    if (chain.every(isRunning)) return;
    clearInterval(timer);
    callBack();
  }, CHECK_EVERY);
  timer.unref();
}

/** The processes above `pid` up to npm. Empty where there is no npm among the next few. */
function chainToRunner(pid: number, levels: number): Process[] {
  const above = parentOf(pid);
  if (above === undefined || levels === 0) return [];
  const it = identify(above);
  if (RUNNER.test(commandOf(above) ?? "")) return [it];
  const rest = chainToRunner(above, levels - 1);
  return rest.length === 0 ? [] : [it, ...rest];
}
