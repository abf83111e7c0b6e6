import { describe, expect, test } from "vitest";
import type { Asked, Kept, Served } from "./books.js";
import { judgeAsked, judgeKept, type Row } from "./verdicts.js";

const row = (changes: Partial<Row> = {}): Row => ({
  ...{ id: "h", child: "c", fingerprint: 1n, amount: 100n, outcome: "captured", records: 1 },
  ...{ cost: 40n, estimated: false, endedAt: new Date(5_000), ...changes },
});
const asked = (changes: Partial<Asked> = {}): Asked => ({
  ...{ no: 1, child: "c", stream: false, fingerprint: 1n, outcome: "acknowledged" },
  ...{ cost: 40n, why: "", ...changes },
});
const served = (changes: Partial<Served> = {}): Served => ({
  ...{ no: 1, gateway: "g", times: 1, whole: true, usage: { input: 10, output: 10 }, ...changes },
});
const kept = (changes: Partial<Kept> = {}): Kept => ({
  ...{ id: "h", child: "c", authorized: "acknowledged", inDoubt: false, amount: 100n },
  ...{ deadline: 4_000, end: { kind: "capture", outcome: "acknowledged", cost: 40n }, why: "" },
  ...changes,
});

describe("the books of a client, an upstream and the database", () => {
  test("agree on what was acknowledged, recorded and reported alike", () => {
    expect(judgeAsked({ asked: asked(), row: row(), served: served() })).toEqual([]);
    expect(judgeKept({ kept: kept(), row: row() })).toEqual([]);
  });

  test.each([
    ["acknowledged, but not on record", { row: row({ outcome: "swept", cost: null }) }],
    ["acknowledged at another cost than recorded", { asked: asked({ cost: 39n }) }],
    ["refused, but paid", { asked: asked({ outcome: "refused" }) }],
    ["has several usage records", { row: row({ records: 2 }) }],
    ["another child has paid", { row: row({ child: "d" }) }],
    ["the upstream was asked twice", { served: served({ times: 2 }) }],
    ["the upstream was asked without a hold", { row: undefined }],
    ["paid, but no upstream was asked", { served: undefined }],
    [
      "paid at another cost than the upstream reports",
      { served: served({ usage: { input: 1, output: 1 } }) },
    ],
  ])("differ on a request: %s", (what, changes) => {
    const complaints = judgeAsked({ asked: asked(), row: row(), served: served(), ...changes });
    expect(complaints.map((it) => it.what)).toContainEqual(expect.stringContaining(what));
  });

  test.each([
    ["refused, but there", { kept: kept({ authorized: "refused" }) }],
    ["swept before its deadline", { row: row({ outcome: "swept", endedAt: new Date(3_000) }) }],
    ["captured, but not at what was asked", { row: row({ cost: 41n }) }],
    ["captured, but not at what was asked", { kept: kept({ end: null }) }],
    ["acknowledged as captured, but is not", { row: row({ outcome: "voided" }) }],
    [
      "acknowledged as voided, but is not",
      { kept: kept({ end: { kind: "void", outcome: "acknowledged", cost: 0n } }) },
    ],
    [
      "its end was refused, though it was not swept",
      { kept: kept({ end: { kind: "capture", outcome: "refused", cost: 40n } }) },
    ],
  ])("differ on a backend's hold: %s", (what, changes) => {
    const complaints = judgeKept({ kept: kept(), row: row(), ...changes });
    expect(complaints.map((it) => it.what)).toContainEqual(expect.stringContaining(what));
  });
});
