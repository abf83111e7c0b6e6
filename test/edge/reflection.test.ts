import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { refuse } from "../../src/base/errors.js";
import { withHealth } from "../../src/edge/wire/health.js";
import { withReflection } from "../../src/edge/wire/reflection.js";
import {
  Health,
  HealthCheckResponse_ServingStatus,
} from "../../src/gen/grpc/health/v1/health_pb.js";
import { aTable, openDoors } from "./wire-table.js";

const { SERVING, NOT_SERVING, SERVICE_UNKNOWN } = HealthCheckResponse_ServingStatus;
const BUF = fileURLToPath(new URL("../../node_modules/.bin/buf", import.meta.url));
const run = promisify(execFile);
let doors: Awaited<ReturnType<typeof openDoors>>;
let ready = true;
let mayLook = true;

beforeAll(async () => {
  const table = aTable({ caller: undefined, chunks: 0, streamEnded: false });
  const guard = () => {
    if (!mayLook) throw refuse("invalid_api_key");
  };
  const services = withReflection(
    withHealth(table, async () => ready),
    guard,
  );
  doors = await openDoors(services, (_request, response) => response.end());
});
afterAll(() => doors.close());

/** A client that knows nothing of our proto files but what the server tells it. */
async function curl(protocol: string, address: string, ...args: string[]): Promise<string> {
  const fixed = ["curl", "--reflect", "--protocol", protocol];
  const url = `http://${address}/${args.pop() ?? ""}`;
  const { stdout } = await run(BUF, [...fixed, "--http2-prior-knowledge", ...args, url]);
  return stdout;
}

describe.each([
  ["gRPC on the shared port", "grpc", () => `127.0.0.1:${doors.httpPort}`],
  ["gRPC on its own port", "grpc", () => doors.grpcAddress],
  ["Connect", "connect", () => `127.0.0.1:${doors.httpPort}`],
])("%s", (_name, protocol, address) => {
  test("tells a stranger its methods, who can then call them", { timeout: 30_000 }, async () => {
    const list = await curl(protocol, address(), "--list-methods", "");
    expect(list).toContain("keytoll.v1.HoldService/Authorize");
    expect(list).toContain("grpc.health.v1.Health/Check");

    const request = JSON.stringify({ hold_id: "h", amount_ngonka: "40" });
    const path = "keytoll.v1.HoldService/Authorize";
    expect(JSON.parse(await curl(protocol, address(), "-d", request, path))).toMatchObject({
      hold: { holdId: "h", status: "HOLD_STATUS_OPEN" },
    });
    const refused = JSON.stringify({ hold_id: "h", amount_ngonka: "400" });
    await expect(curl(protocol, address(), "-d", refused, path)).rejects.toMatchObject({
      stderr: expect.stringMatching(/the spend limit.*google\.rpc\.ErrorInfo/s),
    });
  });
});

test("reflection is refused to those who may not look", { timeout: 30_000 }, async () => {
  mayLook = false;
  await expect(curl("grpc", doors.grpcAddress, "--list-methods", "")).rejects.toMatchObject({
    stderr: expect.stringContaining("not authenticated"),
  });
  mayLook = true;
});

test("health says at once whether calls can be taken, and tells watchers when it changes", async () => {
  for (const address of [`127.0.0.1:${doors.httpPort}`, doors.grpcAddress]) {
    ready = true;
    const transport = createGrpcTransport({ baseUrl: `http://${address}` });
    const client = createClient(Health, transport);
    expect(await client.check({})).toMatchObject({ status: SERVING });
    expect(await client.check({ service: "keytoll.v1.HoldService" })).toMatchObject({
      status: SERVING,
    });
    await expect(client.check({ service: "no.such" })).rejects.toMatchObject({
      code: Code.NotFound,
    });
    expect((await client.list({})).statuses[""]).toMatchObject({ status: SERVING });

    const told: HealthCheckResponse_ServingStatus[] = [];
    for await (const { status } of client.watch({})) {
      told.push(status);
      ready = false;
      if (told.length === 2) break;
    }
    expect(told).toEqual([SERVING, NOT_SERVING]);
    for await (const { status } of client.watch({ service: "no.such" })) {
      expect(status).toBe(SERVICE_UNKNOWN);
      break;
    }
  }
});
