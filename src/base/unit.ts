import { MAX_NGONKA, type Ngonka } from "./money.js";

/**
 * The unit of amounts at doors that write them as JSON numbers, as an operator sets it: one ngonka
 * is `parts / 10^digits` of it.
 */
export interface Unit {
  parts: bigint;
  digits: number;
}

const GNK_DIGITS = 9;
const MTOK_DIGITS = 6;
const NUMBER = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d{1,4}))?$/;
const MAX_LENGTH = 64;
const MAX_EXPONENT = 400;
const RATE = /^(\d{1,9})(?:\.(\d{1,18}))?$/;

export const GNK: Unit = { parts: 1n, digits: GNK_DIGITS };

/**
 * A currency of which one GNK is worth `rate`, a decimal like `0.0125`. Undefined where it is none,
 * or zero.
 */
export function unitByRate(rate: string): Unit | undefined {
  const match = RATE.exec(rate);
  if (!match) return undefined;
  const fraction = match[2] ?? "";
  const parts = BigInt(`${match[1]}${fraction}`);
  return parts === 0n ? undefined : { parts, digits: GNK_DIGITS + fraction.length };
}

/**
 * Reads a JSON number as it is written, digit by digit, and cuts it to whole ngonka: a limit never
 * is more than was asked for.
 *
 * @returns the amount, or what is wrong with it
 */
export function readAmount(unit: Unit, number: string): Ngonka | string {
  const match = number.length > MAX_LENGTH ? null : NUMBER.exec(number);
  const [, sign, whole = "", fraction = "", exponent = "0"] = match ?? [];
  const power = Number(exponent) - fraction.length;
  if (!match || Math.abs(power) > MAX_EXPONENT) return "must be a number of ordinary length";
  const written = BigInt(whole + fraction);
  if (sign === "-" && written > 0n) return "must not be negative";

  const shift = power + unit.digits;
  const amount =
    shift >= 0
      ? (written * 10n ** BigInt(shift)) / unit.parts
      : written / (unit.parts * 10n ** BigInt(-shift));
  return amount > MAX_NGONKA ? `must not be above ${showAmount(unit, MAX_NGONKA)}` : amount;
}

/**
 * An amount as a JSON number: the shortest decimal that `readAmount` reads as exactly these ngonka.
 * Where JSON's readers make doubles of it, it is exact below 4,000,000 GNK.
 */
export function showAmount({ parts, digits }: Unit, amount: Ngonka): number {
  const least = amount * parts;
  const above = least + parts;
  for (let shown = 0; shown < digits; shown++) {
    const step = 10n ** BigInt(digits - shown);
    const count = (least + step - 1n) / step;
    if (count * step < above) return Number(decimal(count, shown));
  }
  return Number(decimal(least, digits));
}

/** A price per million tokens as the exact decimal of one token. */
export const showTokenPrice = ({ parts, digits }: Unit, perMtok: Ngonka): string =>
  decimal(perMtok * parts, digits + MTOK_DIGITS);

/** `count / 10^digits`, without zeros at its end. */
function decimal(count: bigint, digits: number): string {
  const text = count.toString().padStart(digits + 1, "0");
  const fraction = text.slice(text.length - digits).replace(/0+$/, "");
  const whole = text.slice(0, text.length - digits);
  return fraction === "" ? whole : `${whole}.${fraction}`;
}
