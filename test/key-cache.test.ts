import { expect, test } from "vitest";
import { newId } from "../src/base/ids.js";
import { createKeyCache, type FoundKey } from "../src/keys/key-cache.js";

const [account, managementKey, child] = [newId(), newId(), newId()];
const SOME = 50_000;

const state = {
  ...({ status: "active", expiresAt: null } as const),
  ...{ secretVersion: 1, previousSecretUntil: null },
};
const read = (changes: number): FoundKey => ({
  caller: {
    ...{ kind: "child", account, child, managementKey, secretVersion: 1 },
    ...{ rateLimitRpm: null, models: null, costFields: "neutral" },
    accountLimits: { rateLimitRpm: null, concurrency: null },
  },
  ...{ state, parent: state, changes },
});

test.each([
  ["it", child],
  ["its management key", managementKey],
  ["its account", account],
])(
  "a key is forgotten once a change of %s is heard of, also one that was being read then",
  (_, id) => {
    const cache = createKeyCache();
    const before = read(cache.changes());
    cache.put("name", before);
    expect(cache.get("name")).toBe(before);

    cache.forget(id);
    expect(cache.get("name")).toBeUndefined();
    cache.put("name", before);
    expect(cache.get("name")).toBeUndefined();

    const after = read(cache.changes());
    cache.put("name", after);
    expect(cache.get("name")).toBe(after);
  },
);

test("a change of another key, even by the thousand, leaves it", () => {
  const cache = createKeyCache();
  cache.put("name", read(cache.changes()));
  for (let i = 0; i < 1_000; i++) cache.forget(newId());
  expect(cache.get("name")).toBeDefined();
});

test("of more changes than it can note, nothing that was read before any of them is kept", () => {
  const cache = createKeyCache();
  const before = read(cache.changes());
  cache.put("name", before);
  cache.forget(child);
  for (let i = 0; i < SOME; i++) cache.forget(newId());
  expect(cache.get("name")).toBeUndefined();
  cache.put("name", before);
  expect(cache.get("name")).toBeUndefined();
});

test("what was read before all was cleared is not kept after it", () => {
  const cache = createKeyCache();
  const before = read(cache.changes());
  cache.clear();
  cache.put("name", before);
  expect(cache.get("name")).toBeUndefined();
});
