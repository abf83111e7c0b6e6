import { execFile, execFileSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readConfig } from "../../src/base/config.js";
import { createLog } from "../../src/base/log.js";
import { findOnPath } from "../../src/dev/find-temporal.js";
import { type Gateway, startGateway } from "../../src/server.js";
import { ADMIN, environment, type LiveGateway, startLiveGateway } from "../support/live-gateway.js";
import { printRow } from "./world.js";

const CACHE = join(homedir(), ".cache", "keytoll");
const VERSION = "v1.9.3";
const run = promisify(execFile);

/** The tool as it is published: on the PATH, or built once by Go. Undefined where neither can be. */
function findGrpcurl(): string | undefined {
  const cached = join(CACHE, "grpcurl");
  const found = findOnPath("grpcurl") ?? (existsSync(cached) ? cached : undefined);
  if (found !== undefined || findOnPath("go") === undefined) return found;
  console.log(`no grpcurl here: go install grpcurl ${VERSION}, which takes a minute or two`);
  mkdirSync(CACHE, { recursive: true });
  try {
    execFileSync("go", ["install", `github.com/fullstorydev/grpcurl/cmd/grpcurl@${VERSION}`], {
      env: { ...process.env, GOBIN: CACHE },
      stdio: "ignore",
    });
    return cached;
  } catch {
    console.log("grpcurl could not be installed; its tests are skipped");
    return undefined;
  }
}

const GRPCURL = findGrpcurl();
let gateway: LiveGateway;
let guarded: Gateway;
let secret: string;
const cells: Record<string, string> = {};

beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
  const { token } = await gateway.anOwner("grpcurl@example.com", "1000000000");
  ({ secret } = await gateway.aChild(token, (await gateway.aManagementKey(token)).id));
  const env = { ...environment(gateway.databaseUrl, gateway.upstreamUrl), NODE_ENV: "production" };
  guarded = await startGateway(readConfig(env), env, createLog("silent", "test"));
});
afterAll(async () => {
  printRow("grpcurl", cells);
  await guarded?.close();
  await gateway?.close();
});

/** @returns what it printed, whether it succeeded or not */
async function curl(...args: string[]): Promise<string> {
  const { stdout, stderr } = await run(GRPCURL ?? "", ["-plaintext", ...args]).catch(
    (error: { stdout: string; stderr: string }) => error,
  );
  return stdout + stderr;
}

const INFERENCE = "keytoll.v1.InferenceService";
const asked = { model: "demo/fast", messages: [{ role: "user", content: "hello" }] };
const as = (bearer: string) => ["-H", `authorization: Bearer ${bearer}`];

describe.skipIf(GRPCURL === undefined).each([
  ["its own port", () => gateway.grpc],
  ["the shared port", () => gateway.http.replace("http://", "")],
])("grpcurl, which knows only the address, on %s", (_port, address) => {
  test("lists and describes all that there is", async () => {
    const services = (await curl(address(), "list")).trim().split("\n");
    expect(services).toEqual(expect.arrayContaining([INFERENCE, "keytoll.v1.UsageService"]));
    const description = await curl(address(), "describe", `${INFERENCE}.StreamChatCompletion`);
    expect(description).toContain("returns ( stream .keytoll.v1.StreamChatCompletionResponse )");
    const message = await curl(address(), "describe", ".keytoll.v1.CreateChatCompletionRequest");
    expect(message).toContain("optional int32 max_tokens = 3;");
    cells.reflection = "ok";
  });

  test("lists models, is answered, and reads a stream", async () => {
    const call = (method: string, body: object) =>
      curl(...as(secret), "-d", JSON.stringify(body), address(), `${INFERENCE}/${method}`);
    expect(await call("ListModels", {})).toContain('"demo/fast"');
    const answer = JSON.parse(await call("CreateChatCompletion", asked));
    expect(answer.choices[0].message.content).toContain("hello");
    const stream = await call("StreamChatCompletion", { completion: asked });
    expect(stream.match(/"choices"/g)?.length).toBeGreaterThan(5);
    expect(stream).toContain(`"costUnits": "${answer.usage.costUnits}"`);
    Object.assign(cells, { models: "ok", chat: "ok", stream: "ok" });
  });

  test("shows why it was refused, and what is not a field", async () => {
    const path = `${INFERENCE}/CreateChatCompletion`;
    const body = JSON.stringify(asked);
    const refused = await curl(...as("gc-none"), "-d", body, address(), path);
    expect(refused).toContain("Code: Unauthenticated");
    expect(refused).toContain('"reason": "INVALID_API_KEY"');
    expect(refused).toContain('"domain": "keytoll"');
    expect(await curl("-d", '{"colour":1}', address(), path)).toContain("colour");
    cells[401] = "ok";
  });

  test("is told that it can take calls", async () => {
    expect(await curl(address(), "grpc.health.v1.Health/Check")).toContain('"SERVING"');
  });
});

describe.skipIf(GRPCURL === undefined)("in production", () => {
  test("only the operator is told what there is, and callers who know it are served", async () => {
    for (const address of [guarded.grpc, guarded.http.replace("http://", "")]) {
      expect(await curl(address, "list")).toMatch(/Unauthenticated|not valid/);
      expect(await curl(...as(secret), address, "list")).toMatch(/PermissionDenied|cannot be used/);
      expect(await curl(...as(ADMIN), address, "list")).toContain(INFERENCE);
      const headers = ["-reflect-header", `authorization: Bearer ${ADMIN}`];
      const call = ["-rpc-header", `authorization: Bearer ${secret}`, address];
      expect(await curl(...headers, ...call, `${INFERENCE}/ListModels`)).toContain("demo/fast");
    }
  });
});
