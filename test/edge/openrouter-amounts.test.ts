import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { readConfig } from "../../src/base/config.js";
import { MAX_NGONKA } from "../../src/base/money.js";
import { GNK, readAmount, showAmount, showTokenPrice, unitByRate } from "../../src/base/unit.js";
import { numberTexts } from "../../src/edge/wire/number-texts.js";

const unitOf = (rate: string) => unitByRate(rate) ?? GNK;
/** An amount as it stands in an answer, and is read there. */
const onWire = (value: number) => numberTexts(`{"limit":${JSON.stringify(value)}}`).get("limit");

describe("an amount in JSON", () => {
  test.each([
    ["1", 1_000_000_000n],
    ["0.1", 100_000_000n],
    ["0.000000001", 1n],
    ["1e-9", 1n],
    ["12.5E+2", 1_250_000_000_000n],
    ["0", 0n],
    ["-0", 0n],
    ["-0.0e5", 0n],
    ["9223372036.854775807", MAX_NGONKA],
    // What is finer than a ngonka is cut off: never more than was asked for
    ["0.0000000019", 1n],
    ["1e-400", 0n],
    ["0.30000000000000004", 300_000_000n],
  ])("%s GNK is exactly %s ngonka", (number, amount) => {
    expect(readAmount(GNK, number)).toBe(amount);
  });

  test.each([
    ["-1", "must not be negative"],
    ["-1e-30", "must not be negative"],
    ["9223372036.854775808", "must not be above"],
    ["1e300", "must not be above"],
    ["1e9999", "ordinary length"],
    ["1e-99999", "ordinary length"],
    [`0.${"1".repeat(100)}`, "ordinary length"],
    ["", "ordinary length"],
  ])("%s is refused: it %s", (number, problem) => {
    expect(readAmount(GNK, number)).toContain(problem);
  });

  test("that is sent back as it was shown is the same to the ngonka, in any unit", () => {
    const rates = fc.oneof(
      fc.constant(GNK),
      fc
        .tuple(fc.integer({ min: 0, max: 999 }), fc.integer({ min: 1, max: 999_999 }))
        .map(([whole, fraction]) => unitOf(`${whole}.${String(fraction).padStart(6, "0")}`)),
    );
    fc.assert(
      fc.property(rates, fc.bigInt({ min: 0n, max: 10n ** 14n }), (unit, amount) => {
        expect(readAmount(unit, onWire(showAmount(unit, amount)) ?? "")).toBe(amount);
      }),
      { numRuns: 2_000 },
    );
  });

  test("in GNK is exact up to four million, and round sums of dollars come back round", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 4_000_000n * 10n ** 9n }), (amount) => {
        expect(readAmount(GNK, onWire(showAmount(GNK, amount)) ?? "")).toBe(amount);
      }),
      { numRuns: 2_000 },
    );
    const cents = fc.integer({ min: 0, max: 10_000_000 });
    const rates = fc.constantFrom("0.03", "0.0125", "1", "7.77", "0.000333");
    fc.assert(
      fc.property(cents, rates, (count, rate) => {
        const [unit, dollars] = [unitOf(rate), count / 100];
        const amount = readAmount(unit, JSON.stringify(dollars));
        expect(typeof amount === "bigint" && showAmount(unit, amount)).toBe(dollars);
      }),
      { numRuns: 2_000 },
    );
  });

  test("in dollars is worth no more than its dollars", () => {
    expect(readAmount(unitOf("0.03"), "10")).toBe(333_333_333_333n);
    expect(showAmount(unitOf("0.03"), 333_333_333_333n)).toBe(10);
    expect(readAmount(unitOf("2"), "1")).toBe(500_000_000n);
  });

  test("is found as it is written, whatever stands around it", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 6 }),
        fc.constantFrom("0.1234567890123456789", "1E2", "-0"),
        fc.constantFrom("", " ", "\n\t "),
        (around, number, space) => {
          const { limit: _, ...others } = around;
          const json = JSON.stringify({ ...others, limit: { limit: 5 } });
          const text = `${json.slice(0, -1)},${space}"l\\u0069mit"${space}:${space}${number}${space}}`;
          expect(Object.hasOwn(JSON.parse(text) as object, "limit")).toBe(true);
          expect(numberTexts(text).get("limit")).toBe(number);
        },
      ),
    );
  });
});

test("a price of one token is its exact decimal", () => {
  expect(showTokenPrice(GNK, 15_000_001n)).toBe("0.000000015000001");
  expect(showTokenPrice(GNK, 0n)).toBe("0");
  expect(showTokenPrice(unitOf("0.03"), 15_000_001n)).toBe("0.00000000045000003");
  expect(showTokenPrice(GNK, 10n ** 15n)).toBe("1");
});

describe("the unit is set by", () => {
  const unit = (env: Record<string, string>) => readConfig(env).limitUnit;

  test("nothing: GNK, or dollars at a rate", () => {
    expect(unit({})).toEqual(GNK);
    expect(unit({ KEYTOLL_LIMIT_UNIT: "gnk" })).toEqual(GNK);
    const dollars = unit({ KEYTOLL_LIMIT_UNIT: "usd", KEYTOLL_USD_PER_GNK: "0.0125" });
    expect(readAmount(dollars, "1.25")).toBe(100_000_000_000n);
  });

  test.each([
    [{ KEYTOLL_LIMIT_UNIT: "eur" }, /KEYTOLL_LIMIT_UNIT: "eur" is none of gnk, usd/],
    [{ KEYTOLL_LIMIT_UNIT: "usd" }, /KEYTOLL_USD_PER_GNK/],
    [{ KEYTOLL_LIMIT_UNIT: "usd", KEYTOLL_USD_PER_GNK: "0" }, /not a price/],
    [{ KEYTOLL_LIMIT_UNIT: "usd", KEYTOLL_USD_PER_GNK: "1e3" }, /not a price/],
    [{ KEYTOLL_USD_PER_GNK: "0.1" }, /only with KEYTOLL_LIMIT_UNIT=usd/],
  ])("never by %j", (env, message) => {
    expect(() => readConfig(env as Record<string, string>)).toThrow(message);
  });
});
