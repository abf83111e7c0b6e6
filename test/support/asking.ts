import { type Id, newId } from "../../src/base/ids.js";
import type { Ngonka } from "../../src/base/money.js";
import type { Capture, HoldRequest } from "../../src/holds/holds.js";

/** Long enough that no hold is overdue by any clock of the tests unless it is meant to be. */
const YEAR = 31_536_000;

/** A backend's hold of that amount, under a new id unless `more` says otherwise. */
export const holdOf = (
  { account, child }: { account: Id; child: Id },
  amount: Ngonka,
  more: Partial<HoldRequest> = {},
): HoldRequest => ({
  ...{ account, child, id: newId(), part: 0, amount, floor: 0n, secretVersion: 0, seconds: YEAR },
  ...{ fingerprint: 1n, own: false, model: "demo/fast", priceVersion: 1, ...more },
});

/** A backend's capture; another cost is another content. */
export const captureOf = (account: Id, id: Id, cost: Ngonka): Capture => ({
  ...{ account, id, cost, inputTokens: 1n, outputTokens: 1n },
  ...{ estimated: false, fingerprint: cost, own: false },
});
