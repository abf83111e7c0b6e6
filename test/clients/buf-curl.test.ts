import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type LiveGateway, startLiveGateway } from "../support/live-gateway.js";

const BUF = fileURLToPath(new URL("../../node_modules/.bin/buf", import.meta.url));
const run = promisify(execFile);

let gateway: LiveGateway;
let token: string;
let secret: string;
let spent: string;
beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
  ({ token } = await gateway.anOwner("buf@example.com", "1000000000"));
  const { id } = await gateway.aManagementKey(token);
  ({ secret } = await gateway.aChild(token, id));
  ({ secret: spent } = await gateway.aChild(token, id, { limit_daily_ngonka: "0" }));
});
afterAll(() => gateway?.close());

type Door = [name: string, base: () => string, flags: string[]];
const doors: Door[] = [
  [
    "gRPC on its own port",
    () => `http://${gateway.grpc}`,
    ["--protocol", "grpc", "--http2-prior-knowledge"],
  ],
  [
    "gRPC on the shared port",
    () => gateway.http,
    ["--protocol", "grpc", "--http2-prior-knowledge"],
  ],
  ["gRPC-web", () => gateway.http, ["--protocol", "grpcweb", "--http2-prior-knowledge"]],
  ["Connect", () => gateway.http, ["--protocol", "connect", "--http2-prior-knowledge"]],
];

describe.each(doors)("buf curl, which knows only the address, over %s", (_name, base, flags) => {
  const curl = async (...args: string[]): Promise<string> =>
    (await run(BUF, ["curl", ...flags, ...args])).stdout;

  test("lists the services", async () => {
    const services = await curl("--list-services", base());
    expect(services.trim().split("\n")).toEqual(
      expect.arrayContaining([
        "keytoll.v1.AccountService",
        "keytoll.v1.AdminService",
        "keytoll.v1.AuthService",
        "keytoll.v1.HoldService",
        "keytoll.v1.InferenceService",
        "keytoll.v1.KeyService",
        "keytoll.v1.UsageService",
        "grpc.health.v1.Health",
      ]),
    );
  });

  test("makes a key and finds it in the list", async () => {
    const bearer = ["--header", `authorization: Bearer ${token}`];
    const service = `${base()}/keytoll.v1.KeyService`;
    const made = JSON.parse(
      await curl(...bearer, "--data", '{"name":"by buf"}', `${service}/CreateManagementKey`),
    ) as { key: string; managementKey: { id: string } };
    expect(made.key).toMatch(/^gm-/);
    const list = await curl(...bearer, "--data", "{}", `${service}/ListManagementKeys`);
    expect(list).toContain(made.managementKey.id);
    expect(list).not.toContain(made.key);
  });

  test("reads a stream to its end, or why there is none, and its cost is what was used", async () => {
    const messages = [{ role: "user", content: "hello" }];
    const body = JSON.stringify({ completion: { model: "demo/fast", messages } });
    const path = `${base()}/keytoll.v1.InferenceService/StreamChatCompletion`;
    const stream = (key: string) =>
      curl("--header", `authorization: Bearer ${key}`, "--data", body, path);
    const usageOf = async () => {
      const { totals } = await gateway.done("GET /api/account/usage", { bearer: token });
      return BigInt((totals as { cost_ngonka: string }).cost_ngonka);
    };
    const before = await usageOf();
    const text = await stream(secret);
    expect(text.match(/"choices"/g)?.length).toBeGreaterThan(5);
    const [, cost = "0"] = /"costUnits": ?"(\d+)"/.exec(text) ?? [];
    expect(await usageOf()).toBe(before + BigInt(cost));
    await expect(stream(spent)).rejects.toMatchObject({
      stderr: expect.stringContaining('"resource_exhausted"'),
    });
  });

  test("shows a refusal with its reason", async () => {
    const asked = curl("--data", "{}", `${base()}/keytoll.v1.KeyService/ListManagementKeys`);
    const { stderr } = await asked.then(
      () => ({ stderr: "not refused" }),
      (error: { stderr: string }) => error,
    );
    expect(stderr).toContain('"unauthenticated"');
    expect(stderr).toContain("google.rpc.ErrorInfo");
    const [, value = ""] = /"value": "([^"]+)"/.exec(stderr) ?? [];
    expect(Buffer.from(value, "base64").toString()).toContain("INVALID_API_KEY");
  });
});
