import type { HoldEnding, HoldSettled } from "../../../workflows/contract.js";
import { Refusal } from "../../base/errors.js";
import type { Id } from "../../base/ids.js";
import type { Sql } from "../../db/sql.js";
import type { Capture, Holds } from "../holds.js";
import { recordLateCapture } from "./ending-store.js";

/** A capture by our own gateway, which always knows or has counted the tokens. */
export interface OwnCapture extends Capture {
  inputTokens: bigint;
  outputTokens: bigint;
  own: true;
}

/** A capture as it travels and is kept: plain JSON. */
export function captureEnding(capture: Omit<OwnCapture, "own">): HoldEnding {
  const { account, id, cost, inputTokens, outputTokens, estimated, fingerprint } = capture;
  return {
    accountId: account,
    holdId: id,
    capture: {
      costNgonka: cost.toString(),
      inputTokens: inputTokens.toString(),
      outputTokens: outputTokens.toString(),
      estimated,
      fingerprint: fingerprint.toString(),
    },
  };
}

export const voidEnding = ({ account, id }: { account: Id; id: Id }): HoldEnding => ({
  accountId: account,
  holdId: id,
  capture: null,
});

function readCapture({ accountId, holdId, capture }: HoldEnding): OwnCapture | undefined {
  if (capture === null) return undefined;
  return {
    account: accountId,
    id: holdId,
    cost: BigInt(capture.costNgonka),
    inputTokens: BigInt(capture.inputTokens),
    outputTokens: BigInt(capture.outputTokens),
    estimated: capture.estimated,
    fingerprint: BigInt(capture.fingerprint),
    own: true,
  };
}

/** False for an error that is an answer: asking again would bring the same one. */
export function mayPass(error: unknown): boolean {
  if (!(error instanceof Refusal)) return true;
  return error.reason === "not_ready" || error.reason === "busy";
}

/** Where holds end: the money core, and the pool for what it does not do. */
export interface Till {
  sql: Sql;
  holds: Pick<Holds, "capture" | "void">;
}

/**
 * Ends a hold of our own gateway at its cost, now or long after. Safe to do any number of times, at
 * several places at once: it ends once. Where a sweep came first, what it cost above what was
 * captured then becomes a row of the house's losses.
 *
 * @throws not_found  this database knows no such hold
 * @throws whatever `mayPass` tells apart, where Postgres did not take it
 */
export async function captureOwn({ sql, holds }: Till, capture: OwnCapture): Promise<HoldSettled> {
  try {
    const { cost } = await holds.capture(capture);
    return { kind: "captured", costNgonka: cost.toString() };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    // Of a voided hold the database itself has noted the whole cost as a loss
    if (error.reason === "hold_ended") return { kind: "too_late" };
    if (error.reason !== "idempotency_conflict") throw error;
    await recordLateCapture(sql, capture);
    return { kind: "too_late" };
  }
}

/** Gives back a hold of our own gateway, as safely. @throws as captureOwn */
export async function voidOwn(
  { holds }: Pick<Till, "holds">,
  hold: { account: Id; id: Id },
): Promise<HoldSettled> {
  try {
    await holds.void(hold);
    return { kind: "voided" };
  } catch (error) {
    if (error instanceof Refusal && error.reason === "hold_ended") return { kind: "too_late" };
    throw error;
  }
}

/** Ends a hold that could not end when its request did. @throws as captureOwn */
export function settleEnding(till: Till, ending: HoldEnding): Promise<HoldSettled> {
  const capture = readCapture(ending);
  if (capture) return captureOwn(till, capture);
  return voidOwn(till, { account: ending.accountId, id: ending.holdId });
}
