import { createHash } from "node:crypto";
import { refuseField } from "../base/errors.js";
import { checkAmount, checkInteger } from "../base/field.js";
import { type Id, isTimedId, timeOfId } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { DAY, now } from "../base/time.js";

const DEFAULT_SECONDS = 600;
const MAX_SECONDS = 86_400;
const MAX_PARTS = 10_000;

/**
 * The id of a hold: a UUIDv7 of the last or next 24 hours, so that it falls into a partition that
 * exists and an old id can never be mistaken for a new one.
 *
 * @throws invalid_request_error
 */
export function checkNewHoldId(value: string): Id {
  const id = checkHoldId(value);
  if (Math.abs(timeOfId(id) - now()) > DAY) {
    throw refuseField("hold_id", "its time is more than 24 hours from now");
  }
  return id;
}

/** @throws invalid_request_error */
export function checkHoldId(value: string): Id {
  const id = value.toLowerCase();
  if (id === "") throw refuseField("hold_id", "is required");
  if (!isTimedId(id)) throw refuseField("hold_id", "must be a UUIDv7");
  return id;
}

/** An amount that can be held. @throws invalid_request_error */
export function checkHeldAmount(amount: Ngonka): Ngonka {
  if (amount <= 0n) throw refuseField("amount_ngonka", "must be above zero");
  return checkAmount("amount_ngonka", amount);
}

/** @throws invalid_request_error */
export const checkSeconds = (seconds: number = DEFAULT_SECONDS): number =>
  checkInteger("deadline_seconds", seconds, 1, MAX_SECONDS);

/** @throws invalid_request_error */
export const checkPart = (extension: number): number =>
  checkInteger("extension", extension, 1, MAX_PARTS);

/** Eight bytes of a digest over everything that was asked, as a signed bigint. */
export function fingerprintOf(...facts: readonly (string | number | bigint | undefined)[]): bigint {
  const text = facts.map((fact) => `${fact ?? ""}`).join("\u0000");
  return createHash("sha256").update(text).digest().readBigInt64BE();
}
