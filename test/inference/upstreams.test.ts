import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { startDemoUpstream } from "../../src/inference/demo-upstream.js";
import { createUpstreams, readUpstreams } from "../../src/inference/upstreams.js";

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

test("a model goes to the upstream that names it, every other to the one that names none", async () => {
  const specs = fromFile([a, b]);
  expect(specs).toEqual([
    { name: "a", url: "https://a.example/v1", key: "secret-a", models: ["m1"] },
    { name: "b", url: "https://b.example/v1", key: "secret-b", models: null },
  ]);
  const demo = await startDemoUpstream({ port: 0 });
  const upstreams = createUpstreams(specs.map((spec) => ({ ...spec, url: demo.url })));
  const whoServes = async (model: string) => {
    const { signal } = new AbortController();
    const exchange = await upstreams.route(model, "openai")?.post("/none", () => "{}", signal);
    exchange?.discard();
    return exchange?.upstream;
  };
  expect([await whoServes("m1"), await whoServes("m2")]).toEqual(["a", "b"]);
  await Promise.all([upstreams.close(), demo.close()]);
  const named = createUpstreams(fromFile([a]));
  expect([named.serves("m2"), named.route("m2", "openai")]).toEqual([false, undefined]);
  await named.close();
});

test("a mistake in the file is told by its place, and never with a key", () => {
  const cases: [unknown, RegExp][] = [
    ["{", /is not valid JSON/],
    [[], /at least one upstream/],
    [{}, /at least one upstream/],
    [[5], /\[0\]: must be an object/],
    [[a, { ...b, weight: 5 }], /\[1\]\.weight: no such field/],
    [[{ ...a, key: "secret-a" }], /\[0\]\.key: no such field/],
    [[{ ...a, name: "" }], /\[0\]\.name/],
    [[{ ...a, url: "ftp://x" }], /\[0\]\.url/],
    [[{ ...a, key_env: "KEY_C" }], /KEY_C is not set/],
    [[{ ...a, models: [] }], /\[0\]\.models/],
    [[{ ...a, models: [""] }], /\[0\]\.models\[0\]/],
    [[a, { ...a, models: ["m2"] }], /name "a" stands twice/],
    [[a, { ...a, name: "c" }], /model "m1" stands twice/],
    [[b, { ...b, name: "c" }], /only one upstream may go without "models"/],
  ];
  for (const [content, message] of cases) {
    expect(() => fromFile(content)).toThrow(message);
    expect(() => fromFile(content)).not.toThrow("secret-a");
  }
});
