import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { refuse } from "../../src/base/errors.js";
import { createLog } from "../../src/base/log.js";
import type { Extension, Holds } from "../../src/holds/holds.js";
import { createKeeper, LONGEST_REQUEST } from "../../src/inference/keeper.js";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const INTERVAL = 30_000;

function keeperOn(extend: (extension: Extension) => Promise<{ deadline: Date }>) {
  const asked: Extension[] = [];
  const holds: Pick<Holds, "extend"> = {
    extend(extension) {
      asked.push(extension);
      return extend(extension);
    },
  };
  const keeper = createKeeper(holds as Holds, createLog("silent", "test"));
  return { keeper, asked };
}
const checkpoint = { cost: 5n, inputTokens: 1n, outputTokens: 2n };
const running = (id: string, lost = () => {}) => ({
  account: "a",
  id,
  checkpoint: () => checkpoint,
  lost,
  overdue: () => {},
});

test("every running request is extended with what it has produced, and none that has ended", async () => {
  const { keeper, asked } = keeperOn(async () => ({ deadline: new Date() }));
  const end = keeper.watch(running("one"));
  keeper.watch(running("two"));
  await vi.advanceTimersByTimeAsync(INTERVAL);
  end();
  await vi.advanceTimersByTimeAsync(INTERVAL);
  expect(asked.map(({ id }) => id)).toEqual(["one", "two", "two"]);
  expect(asked[0]).toEqual({ account: "a", id: "one", seconds: 120, checkpoint });
  keeper.close();
});

test("a request whose hold has ended is told, one whose extension only fails is not", async () => {
  const lost: string[] = [];
  const { keeper } = keeperOn(async ({ id }) => {
    throw id === "ended" ? refuse("hold_ended") : refuse("not_ready");
  });
  keeper.watch(running("ended", () => lost.push("ended")));
  keeper.watch(running("waits", () => lost.push("waits")));
  await vi.advanceTimersByTimeAsync(INTERVAL);
  expect(lost).toEqual(["ended"]);
  keeper.close();
});

test("an extension that still waits for the database is not asked for again", async () => {
  const { keeper, asked } = keeperOn(() => new Promise(() => {}));
  keeper.watch(running("one"));
  await vi.advanceTimersByTimeAsync(3 * INTERVAL);
  expect(asked).toHaveLength(1);
  keeper.close();
});

test("a request that never ends is told once it has run for an hour, and not before", async () => {
  const { keeper } = keeperOn(async () => ({ deadline: new Date() }));
  let cut = 0;
  keeper.watch({ ...running("one"), overdue: () => void cut++ });
  await vi.advanceTimersByTimeAsync(LONGEST_REQUEST - INTERVAL);
  expect(cut).toBe(0);
  await vi.advanceTimersByTimeAsync(2 * INTERVAL);
  expect(cut).toBeGreaterThan(0);
  keeper.close();
});
