import { beforeEach, expect, test } from "vitest";
import { type Circuit, createCircuit } from "../../src/inference/circuit.js";

let told: (string | undefined)[];
let circuit: Circuit;
beforeEach(() => {
  told = [];
  circuit = createCircuit((problem) => told.push(problem));
});

/** A request that goes through. */
function enters(): object {
  const who = {};
  circuit.enter(who);
  return who;
}
const fails = (times: number, at: number) => {
  for (let i = 0; i < times; i++) circuit.failed(enters(), "503", at);
};
const succeeds = (times: number) => {
  for (let i = 0; i < times; i++) circuit.succeeded(enters());
};

test("five failures in a row open it, four and a success do not", () => {
  fails(4, 0);
  succeeds(1);
  fails(4, 0);
  expect(circuit.state(0)).toBe("closed");
  fails(1, 0);
  expect([circuit.state(0), circuit.wait(0), circuit.problem()]).toEqual(["open", 1_000, "503"]);
  expect(told).toEqual(["503"]);
});

test("half of the requests failing opens it, once there are enough to tell, and only of late", () => {
  for (let i = 0; i < 9; i++) {
    fails(1, i);
    succeeds(1);
  }
  expect(circuit.state(9)).toBe("closed");
  fails(1, 20_000);
  expect(circuit.state(20_000)).toBe("closed");
  for (let i = 0; i < 9; i++) {
    succeeds(1);
    fails(1, 20_000);
  }
  expect(circuit.state(20_000)).toBe("open");
});

test("a few failures among many successes never open it", () => {
  succeeds(200);
  for (let i = 0; i < 100; i++) {
    fails(1, i);
    succeeds(3);
  }
  expect(told).toEqual([]);
});

test("after its pause one request tries, and its success closes it", () => {
  fails(5, 0);
  expect(circuit.state(999)).toBe("open");
  expect([circuit.state(1_000), circuit.wait(1_000)]).toEqual(["half_open", 0]);
  const probe = enters();
  expect(circuit.wait(1_000)).toBeGreaterThan(0);
  circuit.succeeded(probe);
  expect([circuit.state(1_000), circuit.wait(1_000)]).toEqual(["closed", 0]);
  expect(told).toEqual(["503", undefined]);
  fails(4, 1_000);
  expect(circuit.state(1_000)).toBe("closed");
});

test("each time that it fails again the pause is twice as long, up to half a minute", () => {
  fails(5, 0);
  const pauses: number[] = [];
  for (let at = 1_000; pauses.length < 6; at += circuit.wait(at)) {
    fails(1, at);
    pauses.push(circuit.wait(at));
  }
  expect(pauses).toEqual([2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  expect(told).toEqual(["503"]);
});

test("whoever tries and ends without saying anything leaves it to the next", () => {
  fails(5, 0);
  circuit.left(enters());
  expect([circuit.state(1_000), circuit.wait(1_000)]).toEqual(["half_open", 0]);
});

test("what was asked before it opened neither closes it nor keeps it open for longer", () => {
  const early = [enters(), enters()];
  fails(5, 0);
  for (const who of early) circuit.succeeded(who);
  expect(circuit.state(500)).toBe("open");
  circuit.failed(early[0] ?? {}, "503", 900);
  expect(circuit.state(1_000)).toBe("half_open");
});

test("tripped, it is open at once and for a minute", () => {
  circuit.trip(enters(), "401", 0);
  expect([circuit.state(59_999), circuit.state(60_000)]).toEqual(["open", "half_open"]);
});
