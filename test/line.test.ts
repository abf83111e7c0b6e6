import { expect, test } from "vitest";
import { createLine } from "../src/base/line.js";
import { pause } from "../src/base/time.js";

const hangUp = new Error("the caller hung up");

test("whoever listens to a line is told once that it was cut, and knows why", () => {
  const line = createLine();
  const told: unknown[] = [];
  line.signal.addEventListener("abort", () => told.push(line.signal.reason));
  line.signal.addEventListener("abort", { handleEvent: () => void told.push("by its method") });
  line.signal.throwIfAborted();
  expect(line.signal.aborted).toBe(false);
  line.abort(hangUp);
  line.abort(new Error("a second time"));
  expect(told).toEqual([hangUp, "by its method"]);
  expect(line.signal.aborted).toBe(true);
  expect(() => line.signal.throwIfAborted()).toThrow(hangUp);
});

test("whoever no longer listens to a line, or comes after it was cut, is not told", () => {
  const line = createLine();
  const told: string[] = [];
  const leaves = () => void told.push("one who has left");
  line.signal.addEventListener("abort", leaves);
  line.signal.removeEventListener("abort", leaves);
  line.abort(hangUp);
  line.signal.addEventListener("abort", () => told.push("one who came late"));
  expect(told).toEqual([]);
});

test("a pause ends at once when its line is cut, before it began or meanwhile", async () => {
  const [before, meanwhile] = [createLine(), createLine()];
  before.abort(hangUp);
  await pause(3_600_000, before.signal);
  const paused = pause(3_600_000, meanwhile.signal);
  meanwhile.abort(hangUp);
  await paused;
});
