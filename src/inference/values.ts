import { refuseField } from "../base/errors.js";

export type Json = Record<string, unknown>;

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const isAbsent = (value: unknown): value is null | undefined =>
  value === undefined || value === null;

/** @throws invalid_request_error where it is there and no positive whole number */
export function positive(value: unknown, name: string): number | undefined {
  if (isAbsent(value)) return undefined;
  if (!Number.isSafeInteger(value) || (value as number) < 1) {
    throw refuseField(name, "must be a positive whole number");
  }
  return value as number;
}

/** @throws invalid_request_error where it is there and neither true nor false */
export function flag(value: unknown, name: string): boolean {
  if (isAbsent(value)) return false;
  if (typeof value !== "boolean") throw refuseField(name, "must be true or false");
  return value;
}
