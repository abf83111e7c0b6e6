import { Code, createClient, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { checkBooks } from "../../src/check/check.js";
import { AccountService } from "../../src/gen/keytoll/v1/account_pb.js";
import { AdminService } from "../../src/gen/keytoll/v1/admin_pb.js";
import { AuthService } from "../../src/gen/keytoll/v1/auth_pb.js";
import { HoldService, HoldStatus } from "../../src/gen/keytoll/v1/hold_pb.js";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";
import { KeyService } from "../../src/gen/keytoll/v1/key_pb.js";
import { ADMIN, type LiveGateway, PASSWORD, startLiveGateway } from "../support/live-gateway.js";

let gateway: LiveGateway;
beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
});
afterAll(() => gateway?.close());

const as = (bearer: string) => ({ headers: { authorization: `Bearer ${bearer}` } });
const CREDIT = 1_000_000_000n;

const transports: [name: string, make: () => Transport][] = [
  [
    "Connect in JSON over HTTP/1.1",
    () => createConnectTransport({ baseUrl: gateway.http, httpVersion: "1.1" }),
  ],
  [
    "Connect in protobuf over HTTP/2",
    () =>
      createConnectTransport({ baseUrl: gateway.http, httpVersion: "2", useBinaryFormat: true }),
  ],
  ["gRPC on the shared port", () => createGrpcTransport({ baseUrl: gateway.http })],
  ["gRPC on its own port", () => createGrpcTransport({ baseUrl: `http://${gateway.grpc}` })],
  ["gRPC-web", () => createGrpcWebTransport({ baseUrl: gateway.http, httpVersion: "1.1" })],
];

/** From nothing to a child key that can pay. */
async function begin(transport: Transport, email: string) {
  const auth = createClient(AuthService, transport);
  const keys = createClient(KeyService, transport);
  const { accountId } = await auth.register({ email, password: PASSWORD });
  const payment = { accountId, amountNgonka: CREDIT, reference: email };
  await createClient(AdminService, transport).creditAccount(payment, as(ADMIN));
  const { token } = await auth.login({ email, password: PASSWORD });
  const manager = await keys.createManagementKey({ name: "SaaS" }, as(token));
  const managementKeyId = manager.managementKey?.id ?? "";
  const limits = { limitDailyNgonka: 100_000_000n, rateLimitRpm: 1_000 };
  const child = { managementKeyId, name: "Client", ...limits };
  const { childKey, key: gc } = await keys.createChildKey(child, as(manager.key));
  return { token, gm: manager.key, gc, ref: { managementKeyId, childKeyId: childKey?.id ?? "" } };
}

describe.each(transports)("%s", (name, make) => {
  const email = `${name.toLowerCase().replace(/[^a-z0-9]+/g, "-")}@example.com`;
  let transport: Transport;
  let keys: Awaited<ReturnType<typeof begin>>;
  beforeAll(async () => {
    transport = make();
    keys = await begin(transport, email);
  });

  const used = async (): Promise<bigint> => {
    const client = createClient(KeyService, transport);
    const { childKey } = await client.getChildKey(keys.ref, as(keys.gm));
    return childKey?.usedDailyNgonka ?? 0n;
  };
  const messages = [{ role: "user", content: "hello" }];

  test("carries an answer, a stream and their cost", async () => {
    const inference = createClient(InferenceService, transport);
    const asked = { model: "demo/fast", messages };
    const answer = await inference.createChatCompletion(asked, as(keys.gc));
    expect(answer.choices[0]?.message?.content).toContain("hello");
    let cost = BigInt(answer.usage?.costUnits ?? 0);
    expect(await used()).toBe(cost);

    let text = "";
    const events = inference.streamChatCompletion({ completion: asked }, as(keys.gc));
    for await (const { choices, usage } of events) {
      text += choices[0]?.delta?.content ?? "";
      cost += BigInt(usage?.costUnits ?? 0);
    }
    expect(text).toBe(answer.choices[0]?.message?.content);
    expect(await used()).toBe(cost);
    const { account } = await createClient(AccountService, transport).getAccount(
      {},
      as(keys.token),
    );
    expect(account?.balanceNgonka).toBe(CREDIT - cost);
    expect(account?.heldNgonka).toBe(0n);
  });

  test("carries a hang-up, which is paid for as far as it got", async () => {
    const inference = createClient(InferenceService, transport);
    const stop = new AbortController();
    const completion = { model: "demo/slow", messages };
    const before = await used();
    await expect(async () => {
      const options = { ...as(keys.gc), signal: stop.signal };
      for await (const _ of inference.streamChatCompletion({ completion }, options)) stop.abort();
    }).rejects.toMatchObject({ code: Code.Canceled });
    await vi.waitFor(
      async () => {
        const [row] = await gateway.sql`
          select held from child_key where id = ${keys.ref.childKeyId}`;
        expect(row?.held).toBe(0n);
      },
      { timeout: 10_000 },
    );
    const paid = (await used()) - before;
    expect(paid).toBeGreaterThan(0n);
    expect(paid).toBeLessThan(5_000n);
  });

  test("carries holds and refusals", async () => {
    const holds = createClient(HoldService, transport);
    const holdId = newId();
    const before = await used();
    const key = { case: "childKeyId", value: keys.ref.childKeyId } as const;
    const size = { case: "amountNgonka", value: 1_000n } as const;
    await holds.authorize({ holdId, key, size }, as(keys.gm));
    const actual = { case: "costNgonka", value: 700n } as const;
    const { hold } = await holds.capture({ holdId, actual }, as(keys.gm));
    expect(hold?.status).toBe(HoldStatus.CAPTURED);
    expect(await used()).toBe(before + 700n);
    await expect(holds.void({ holdId }, as(keys.gm))).rejects.toMatchObject({
      code: Code.FailedPrecondition,
    });
    await expect(holds.getHold({ holdId }, as(keys.gc))).rejects.toMatchObject({
      code: Code.PermissionDenied,
    });
  });
});

test("afterwards the books are right", async () => {
  const findings = await checkBooks(gateway.sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
});
