import { Refusal } from "../../src/base/errors.js";
import { type Id, newId } from "../../src/base/ids.js";
import { connect } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import { captureOf, holdOf } from "./asking.js";

/** What a process of a race is told to do. Amounts are ngonka. */
export type RaceOrder =
  /** All ids at once. */
  | { kind: "authorize"; account: Id; child: Id; ids: Id[]; amount: string }
  /** Ever new ids, so many at a time, until told to stop. */
  | { kind: "pour"; account: Id; child: Id; lanes: number; amount: string }
  | { kind: "stop" }
  | { kind: "end"; account: Id; ids: Id[]; how: "capture" | "void"; cost: string }
  /** Sweeps until nothing is left to sweep. */
  | { kind: "sweep" };

/** The ids that got each answer: held, repeated, captured, voided, or the reason of a refusal. */
export type RaceReport = Record<string, Id[]>;

const [url = ""] = process.argv.slice(2);
const sql = connect(url, { name: "racer", max: 6 });
const holds = createHolds(sql, { gateway: null });
let pouring = false;

async function authorize(account: Id, child: Id, id: Id, amount: bigint): Promise<string> {
  const held = await holds.authorize(holdOf({ account, child }, amount, { id }));
  return held.repeated ? "repeated" : "held";
}

async function end({ account, how, cost }: RaceOrder & { kind: "end" }, id: Id): Promise<string> {
  if (how === "void") {
    await holds.void({ account, id });
    return "voided";
  }
  await holds.capture(captureOf(account, id, BigInt(cost)));
  return "captured";
}

const reasonOf = (error: unknown): string =>
  error instanceof Refusal ? error.reason : String(error);

/** Does the same with every id, all at once. */
async function withAll(ids: Id[], act: (id: Id) => Promise<string>): Promise<RaceReport> {
  const report: RaceReport = {};
  const note = (id: Id) => (answer: string) => {
    report[answer] = [...(report[answer] ?? []), id];
  };
  await Promise.all(ids.map((id) => act(id).catch(reasonOf).then(note(id))));
  return report;
}

async function pour(order: RaceOrder & { kind: "pour" }): Promise<RaceReport> {
  const { account, child, lanes } = order;
  const amount = BigInt(order.amount);
  const report: RaceReport = {};
  pouring = true;
  const lane = async (): Promise<void> => {
    while (pouring) {
      const id = newId();
      const answer = await authorize(account, child, id, amount).catch(reasonOf);
      const ids = report[answer] ?? [];
      report[answer] = ids;
      ids.push(id);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return report;
}

/** Without the minute's grace that a fresh start of Postgres gives to gateways. */
async function sweep(): Promise<RaceReport> {
  for (;;) {
    const [row] = await sql<{ swept: number }[]>`
      select captured + voided as swept from sweep_holds(100, interval '0')`;
    if (!row?.swept) return {};
  }
}

async function run(order: RaceOrder): Promise<RaceReport | undefined> {
  switch (order.kind) {
    case "authorize": {
      const { account, child, ids, amount } = order;
      return await withAll(ids, (id) => authorize(account, child, id, BigInt(amount)));
    }
    case "pour":
      return await pour(order);
    case "end":
      return await withAll(order.ids, (id) => end(order, id));
    case "sweep":
      return await sweep();
    case "stop":
      pouring = false;
      return undefined;
  }
}

process.on("message", async (order: RaceOrder) => {
  const report = await run(order);
  if (report) process.send?.(report);
});
process.on("disconnect", () => {
  pouring = false;
  void sql.end({ timeout: 1 });
});

await sql`select 1`;
process.send?.("ready");
