import { createInterface } from "node:readline";
import { type Charge, endAll } from "./endings.js";

/**
 * Runs beside its parent and outlives it: when the pipe from the parent closes, whatever it was
 * told of (a line of JSON for each) and still runs is ended in order. So nothing is left behind
 * even by a kill -9.
 */
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});

const charges: Charge[] = [];
for await (const line of createInterface({ input: process.stdin })) {
  charges.push(JSON.parse(line) as Charge);
}
await endAll(charges);
