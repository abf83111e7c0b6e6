import { refuseField } from "../base/errors.js";
import { checkAmount, checkInteger, checkText } from "../base/field.js";
import type { ChildFields } from "./key.js";

const MAX_NAME = 100;
const MAX_RPM = 1_000_000;
const MAX_MODELS = 100;
const MAX_MODEL_ID = 200;
const MAX_PAIRS = 16;
const MAX_PAIR_NAME = 64;
const MAX_PAIR_VALUE = 512;
const MAX_GRACE_SECONDS = 30 * 24 * 60 * 60;

export const checkName = (name: string): string => checkText("name", name, 1, MAX_NAME);

/** Seconds for which a replaced secret still works, 0 to 30 days. @throws invalid_request_error */
export const checkGrace = (seconds: number): number =>
  checkInteger("grace_seconds", seconds, 0, MAX_GRACE_SECONDS);

/**
 * An expiry must lie ahead of the account's time.
 *
 * @throws invalid_request_error
 */
export function checkExpiry(expiresAt: Date | null | undefined, at: Date): void {
  if (expiresAt && expiresAt <= at) throw refuseField("expires_at", "must be in the future");
}

/**
 * Checks the fields of a child key that are there.
 *
 * @returns them as they are stored: names without blanks around, each model once, no empty list
 * @throws invalid_request_error with the field's name
 */
export function checkChildFields<F extends Partial<ChildFields>>(fields: F): F {
  const checked = { ...fields };
  if (fields.name !== undefined) checked.name = checkName(fields.name);
  checkLimit("limit_daily_ngonka", fields.limitDaily);
  checkLimit("limit_monthly_ngonka", fields.limitMonthly);
  checkLimit("limit_total_ngonka", fields.limitTotal);
  if (typeof fields.rateLimitRpm === "number") {
    checkInteger("rate_limit_rpm", fields.rateLimitRpm, 1, MAX_RPM);
  }
  if (fields.models) checked.models = checkModels(fields.models);
  if (fields.metadata) checkMetadata(fields.metadata);
  return checked;
}

function checkLimit(param: string, limit: bigint | null | undefined): void {
  if (typeof limit === "bigint") checkAmount(param, limit);
}

function checkModels(models: string[]): string[] | null {
  if (models.length > MAX_MODELS) throw refuseField("models", `has more than ${MAX_MODELS} ids`);
  const ids = models.map((model, i) => checkText(`models[${i}]`, model, 1, MAX_MODEL_ID));
  return ids.length === 0 ? null : [...new Set(ids)];
}

function checkMetadata(metadata: Record<string, string>): void {
  const pairs = Object.entries(metadata);
  if (pairs.length > MAX_PAIRS) throw refuseField("metadata", `has more than ${MAX_PAIRS} pairs`);
  for (const [name, value] of pairs) {
    if (checkText("metadata", name, 1, MAX_PAIR_NAME) !== name) {
      throw refuseField("metadata", "has a name with blanks around it");
    }
    if ([...value].length > MAX_PAIR_VALUE) {
      throw refuseField(`metadata.${name}`, `has more than ${MAX_PAIR_VALUE} characters`);
    }
    // Neither can be stored by Postgres
    if (/[\0\p{Cs}]/u.test(value)) throw refuseField(`metadata.${name}`, "is not valid text");
  }
}
