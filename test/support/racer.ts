import { Refusal } from "../../src/base/errors.js";
import { connect } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";

/** What a process of a race is told to authorize, all at once. */
export interface RaceOrder {
  account: string;
  child: string;
  ids: string[];
  /** Ngonka. */
  amount: string;
}

/** How often each answer was given: held, repeated, or the reason of a refusal. */
export interface RaceReport {
  answers: Record<string, number>;
}

const [url = ""] = process.argv.slice(2);
const sql = connect(url, { name: "racer", max: 6 });
const holds = createHolds(sql, { gateway: null });

async function authorize({ account, child, amount }: RaceOrder, id: string): Promise<string> {
  try {
    const held = await holds.authorize({
      account,
      child,
      id,
      part: 0,
      amount: BigInt(amount),
      floor: 0n,
      secretVersion: 0,
      seconds: 600,
      fingerprint: 1n,
      own: false,
      model: null,
      priceVersion: null,
    });
    return held.repeated ? "repeated" : "held";
  } catch (error) {
    return error instanceof Refusal ? error.reason : String(error);
  }
}

process.on("message", async (order: RaceOrder) => {
  const given = await Promise.all(order.ids.map((id) => authorize(order, id)));
  const answers: Record<string, number> = {};
  for (const answer of given) answers[answer] = (answers[answer] ?? 0) + 1;
  process.send?.({ answers } satisfies RaceReport);
});
process.on("disconnect", () => void sql.end({ timeout: 1 }));

await sql`select 1`;
process.send?.("ready");
