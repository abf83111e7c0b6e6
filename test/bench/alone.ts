import { elapsed } from "../../src/base/time.js";
import { connect } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import { aHold, openBooks } from "./holds.js";

export interface AloneFigures {
  roundTrip: { p50: number; p99: number };
  hold: { p50: number; p99: number };
  /** Milliseconds that a hold takes more than a round trip, at the median. */
  added: number;
}

const WARM_UP = 200;

/**
 * One caller who waits for each answer: a hold against a round trip of `select 1` on the same kind
 * of connection, one of each in turn, so that both meet the same moments of the machine.
 */
export async function aloneFigures(url: string, seconds: number): Promise<AloneFigures> {
  const sql = connect(url, { name: "bench alone", max: 6 });
  const books = await openBooks(sql);
  const holds = createHolds(sql, { gateway: null });
  const times = { roundTrip: [] as number[], hold: [] as number[] };
  const time = async (kind: keyof typeof times, work: () => Promise<unknown>) => {
    const start = elapsed();
    await work();
    times[kind].push(elapsed() - start);
  };
  try {
    const end = elapsed() + seconds * 1_000;
    for (let i = 0; i < WARM_UP || elapsed() < end; i++) {
      if (i === WARM_UP) for (const kind of Object.values(times)) kind.length = 0;
      await time("roundTrip", () => sql`select 1`);
      await time("hold", () => holds.authorize(aHold(books)));
    }
  } finally {
    await holds.close();
    await sql.end();
  }
  const [roundTrip, hold] = [shares(times.roundTrip), shares(times.hold)];
  return { roundTrip, hold, added: Number((hold.p50 - roundTrip.p50).toFixed(2)) };
}

function shares(times: number[]): { p50: number; p99: number } {
  times.sort((a, b) => a - b);
  const at = (share: number) => Number((times[Math.floor(times.length * share)] ?? 0).toFixed(2));
  return { p50: at(0.5), p99: at(0.99) };
}
