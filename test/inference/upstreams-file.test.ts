import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readUpstreams } from "../../src/inference/upstreams-file.js";

const folder = mkdtempSync(join(tmpdir(), "keytoll-upstreams-"));
afterAll(() => rmSync(folder, { recursive: true }));

const ENV = { KEY_A: "secret-a", KEY_B: "secret-b" };

function fromFile(content: unknown) {
  const upstreamsFile = join(folder, "upstreams.json");
  writeFileSync(upstreamsFile, typeof content === "string" ? content : JSON.stringify(content));
  return readUpstreams({ upstreamUrl: undefined, upstreamKey: undefined, upstreamsFile }, ENV);
}
const a = { name: "a", url: "https://a.example/v1/", key_env: "KEY_A", models: ["m1"] };
const b = { name: "b", url: "https://b.example", key_env: "KEY_B" };

test("one upstream comes from its two variables, with or without /v1", () => {
  const read = (upstreamUrl: string) =>
    readUpstreams({ upstreamUrl, upstreamKey: "k", upstreamsFile: undefined }, {})[0]?.url;
  expect(read("http://127.0.0.1:9")).toBe("http://127.0.0.1:9/v1");
  expect(read("http://127.0.0.1:9/")).toBe("http://127.0.0.1:9/v1");
  expect(read("http://127.0.0.1:9/api/v1/")).toBe("http://127.0.0.1:9/api/v1");
});

test("an upstream that says no more than it must is asked as if it were the only one", () => {
  const common = {
    ...{ dialect: "openai", weight: 1, priority: 0, maxConcurrent: Number.POSITIVE_INFINITY },
    ...{ timeouts: { headers: 300_000, idle: 120_000 }, accepts: undefined },
  };
  expect(fromFile([a, b])).toEqual([
    {
      ...{ ...common, name: "a", url: "https://a.example/v1", key: "secret-a" },
      models: new Map([["m1", "m1"]]),
    },
    { ...common, name: "b", url: "https://b.example/v1", key: "secret-b", models: null },
  ]);
});

test("all that can be said of an upstream is read", () => {
  const [spec] = fromFile([
    {
      ...a,
      models: ["m1", { id: "m2", upstream_id: "Vendor/M2" }, { id: "m3" }],
      ...{ dialect: "openai", weight: 3, priority: 2, max_concurrent: 8 },
      ...{ first_byte_timeout_seconds: 20, idle_timeout_seconds: 5 },
      ...{ strict: true, drop_parameters: ["tools"] },
    },
  ]);
  expect(spec).toMatchObject({ weight: 3, priority: 2, maxConcurrent: 8 });
  expect(spec?.timeouts).toEqual({ headers: 20_000, idle: 5_000 });
  expect([...(spec?.models ?? [])]).toEqual([
    ["m1", "m1"],
    ["m2", "Vendor/M2"],
    ["m3", "m3"],
  ]);
  const passed = ["temperature", "tools", "top_k", "messages"].filter(
    spec?.accepts ?? (() => true),
  );
  expect(passed).toEqual(["temperature", "messages"]);
  const [lax] = fromFile([{ ...a, drop_parameters: ["top_k"] }]);
  expect([lax?.accepts?.("top_k"), lax?.accepts?.("min_p")]).toEqual([false, true]);
});

test("a mistake in the file is told by its place, and never with a key", () => {
  const cases: [unknown, RegExp][] = [
    ["{", /is not valid JSON/],
    [[], /at least one upstream/],
    [{}, /at least one upstream/],
    [[5], /\[0\]: must be an object/],
    [[a, { ...b, wait: 5 }], /\[1\]\.wait: no such field; there are name, url, key_env/],
    [[{ ...a, key: "secret-a" }], /\[0\]\.key: no such field/],
    [[{ ...a, name: "" }], /\[0\]\.name/],
    [[{ ...a, url: "ftp://x" }], /\[0\]\.url/],
    [[{ ...a, key_env: "KEY_C" }], /\[0\]\.key_env: the variable KEY_C is not set/],
    [[{ ...a, models: [] }], /\[0\]\.models/],
    [[{ ...a, models: [""] }], /\[0\]\.models\[0\]/],
    [[{ ...a, models: [{ upstream_id: "x" }] }], /\[0\]\.models\[0\]\.id/],
    [[{ ...a, models: [{ id: "x", upstream_id: "" }] }], /\[0\]\.models\[0\]\.upstream_id/],
    [[{ ...a, models: [{ id: "x", name: "y" }] }], /\[0\]\.models\[0\]\.name: no such field/],
    [[{ ...a, models: ["m1", { id: "m1" }] }], /\[0\]\.models: the model "m1" stands twice/],
    [[a, { ...a, models: ["m2"] }], /name "a" stands twice/],
    [[{ ...a, dialect: "gemini" }], /\[0\]\.dialect: must be "openai" or "anthropic"/],
    [[{ ...a, weight: 0 }], /\[0\]\.weight: must be a whole number from 1/],
    [[{ ...a, weight: "2" }], /\[0\]\.weight/],
    [[{ ...a, priority: -1 }], /\[0\]\.priority: must be a whole number from 0/],
    [[{ ...a, max_concurrent: 1.5 }], /\[0\]\.max_concurrent/],
    [[{ ...a, first_byte_timeout_seconds: 0 }], /\[0\]\.first_byte_timeout_seconds/],
    [[{ ...a, idle_timeout_seconds: 3_601 }], /\[0\]\.idle_timeout_seconds/],
    [[{ ...a, strict: "yes" }], /\[0\]\.strict: must be true or false/],
    [
      [{ ...a, strict: true, dialect: "anthropic" }],
      /\[0\]\.strict: only an upstream of the openai/,
    ],
    [[{ ...a, drop_parameters: [] }], /\[0\]\.drop_parameters: must be a list/],
    [[{ ...a, drop_parameters: ["messages"] }], /\[0\]\.drop_parameters\[0\]: no request/],
  ];
  for (const [content, message] of cases) {
    expect(() => fromFile(content)).toThrow(message);
    expect(() => fromFile(content)).not.toThrow("secret-a");
  }
});
