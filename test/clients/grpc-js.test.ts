import { once } from "node:events";
import {
  create,
  type DescMethod,
  type DescService,
  fromBinary,
  type Message,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type ClientReadableStream,
  credentials,
  Metadata,
  makeGenericClientConstructor,
  type ServiceClientConstructor,
  type ServiceDefinition,
  status,
} from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { checkBooks } from "../../src/check/check.js";
import { AuthService } from "../../src/gen/keytoll/v1/auth_pb.js";
import { HoldService, HoldStatus } from "../../src/gen/keytoll/v1/hold_pb.js";
import {
  InferenceService,
  type StreamChatCompletionResponse,
} from "../../src/gen/keytoll/v1/inference_pb.js";
import { KeyService } from "../../src/gen/keytoll/v1/key_pb.js";
import { ADMIN, type LiveGateway, startLiveGateway } from "../support/live-gateway.js";

let gateway: LiveGateway;
beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
});
afterAll(() => gateway?.close());

/** A client of a service as anybody makes one from its descriptor. */
function clientOf(service: DescService, address: string) {
  const definition: ServiceDefinition = Object.fromEntries(
    service.methods.map((method) => [
      method.name,
      {
        path: `/${service.typeName}/${method.name}`,
        requestStream: false,
        responseStream: method.methodKind === "server_streaming",
        requestSerialize: (message: Message) => Buffer.from(toBinary(method.input, message)),
        requestDeserialize: (bytes: Buffer) => fromBinary(method.input, bytes),
        responseSerialize: (message: Message) => Buffer.from(toBinary(method.output, message)),
        responseDeserialize: (bytes: Buffer) => fromBinary(method.output, bytes),
      },
    ]),
  );
  const Client: ServiceClientConstructor = makeGenericClientConstructor(
    definition,
    service.typeName,
  );
  return new Client(address, credentials.createInsecure());
}

type Client = ReturnType<typeof clientOf>;

function as(bearer?: string): Metadata {
  const metadata = new Metadata();
  if (bearer) metadata.set("authorization", `Bearer ${bearer}`);
  return metadata;
}

function call<M extends DescMethod>(
  client: Client,
  method: M,
  message: MessageInitShape<M["input"]>,
  bearer?: string,
): Promise<MessageShape<M["output"]>> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, answer: MessageShape<M["output"]>) =>
      error ? reject(error) : resolve(answer);
    const request = create(method.input, message);
    const start = client[method.name] as (...all: unknown[]) => unknown;
    start.call(client, request, as(bearer), done);
  });
}

const { streamChatCompletion, createChatCompletion, listModels } = InferenceService.method;

function stream(client: Client, model: string, bearer: string) {
  const messages = [{ role: "user", content: "hello" }];
  const request = create(streamChatCompletion.input, { completion: { model, messages } });
  const start = client.StreamChatCompletion as (...all: unknown[]) => unknown;
  const chunks = start.call(client, request, as(bearer));
  return chunks as ClientReadableStream<StreamChatCompletionResponse>;
}

describe.each(["grpc", "http"] as const)("an unmodified @grpc/grpc-js client on %s", (port) => {
  const email = `grpc-js-${port}@example.com`;
  const clients = {} as Record<"auth" | "keys" | "holds" | "inference", Client>;
  let managementKeyId: string;
  let gm: string;
  let childKeyId: string;
  let gc: string;

  beforeAll(async () => {
    const address = gateway[port].replace("http://", "");
    clients.auth = clientOf(AuthService, address);
    clients.keys = clientOf(KeyService, address);
    clients.holds = clientOf(HoldService, address);
    clients.inference = clientOf(InferenceService, address);

    const password = "correct horse battery";
    const owner = await call(clients.auth, AuthService.method.register, { email, password });
    await credit(owner.accountId, `grpc-js ${port}`);
    const { token } = await call(clients.auth, AuthService.method.login, { email, password });
    const { createManagementKey, createChildKey } = KeyService.method;
    const manager = await call(clients.keys, createManagementKey, { name: "SaaS" }, token);
    [managementKeyId, gm] = [manager.managementKey?.id ?? "", manager.key];
    const limits = { limitDailyNgonka: 100_000_000n };
    const child = { managementKeyId, name: "Client", ...limits };
    const made = await call(clients.keys, createChildKey, child, gm);
    [childKeyId, gc] = [made.childKey?.id ?? "", made.key];
  });
  afterAll(() => {
    for (const client of Object.values(clients)) client.close();
  });

  const used = async (): Promise<bigint> => {
    const ref = { managementKeyId, childKeyId };
    const { childKey } = await call(clients.keys, KeyService.method.getChildKey, ref, gm);
    return childKey?.usedDailyNgonka ?? 0n;
  };

  test("asks, is answered, and its usage counts", async () => {
    const before = await used();
    const { data } = await call(clients.inference, listModels, {}, gc);
    expect(data.map(({ id }) => id)).toContain("demo/fast");
    const asked = { model: "demo/fast", messages: [{ role: "user", content: "hello" }] };
    const { choices, usage } = await call(clients.inference, createChatCompletion, asked, gc);
    expect(choices[0]?.message?.content).toContain("hello");
    expect(BigInt(usage?.costUnits ?? 0)).toBeGreaterThan(0n);
    expect(await used()).toBe(before + BigInt(usage?.costUnits ?? 0));
  });

  test("reads a stream to its end, where its cost stands", async () => {
    const before = await used();
    const chunks: StreamChatCompletionResponse[] = [];
    for await (const chunk of stream(clients.inference, "demo/fast", gc)) chunks.push(chunk);
    const text = chunks.map(({ choices }) => choices[0]?.delta?.content ?? "").join("");
    expect(text).toContain("hello");
    const cost = BigInt(chunks.at(-1)?.usage?.costUnits ?? 0);
    expect(cost).toBeGreaterThan(0n);
    expect(await used()).toBe(before + cost);
  });

  test("that cancels a stream pays for what was written, and holds nothing after it", async () => {
    const before = await used();
    const chunks = stream(clients.inference, "demo/slow", gc);
    const cancelled = new Promise((resolve) => chunks.once("error", resolve));
    await once(chunks, "data");
    chunks.cancel();
    expect(await cancelled).toMatchObject({ code: status.CANCELLED });
    await vi.waitFor(
      async () => {
        const [row] = await gateway.sql`
          select held from child_key where id = ${childKeyId}`;
        expect(row?.held).toBe(0n);
      },
      { timeout: 10_000 },
    );
    const paid = (await used()) - before;
    expect(paid).toBeGreaterThan(0n);
    expect(paid).toBeLessThan(5_000n);
  });

  test("reserves, extends, captures and voids, each call as often as it likes", async () => {
    const { authorize, capture, extend, getHold, void: voidHold } = HoldService.method;
    const before = await used();
    const holdId = newId();
    const key = { case: "secret", value: gc } as const;
    const size = { case: "amountNgonka", value: 1_000n } as const;
    for (const amountNgonka of [1_000n, 1_500n]) {
      const { hold } = await call(clients.holds, authorize, { holdId, key, size }, gm);
      expect(hold).toMatchObject({ status: HoldStatus.OPEN, amountNgonka });
      const more = { holdId, extension: 1, amountNgonka: 500n };
      expect((await call(clients.holds, extend, more, gm)).hold?.amountNgonka).toBe(1_500n);
    }
    expect(await used()).toBe(before + 1_500n);
    const actual = { case: "costNgonka", value: 1_200n } as const;
    for (const _ of [1, 2]) {
      const { hold } = await call(clients.holds, capture, { holdId, actual }, gm);
      expect(hold).toMatchObject({ status: HoldStatus.CAPTURED, capturedNgonka: 1_200n });
    }
    expect((await call(clients.holds, getHold, { holdId }, gm)).hold?.endedAt).toBeDefined();
    const other = newId();
    await call(clients.holds, authorize, { holdId: other, key, size }, gm);
    for (const _ of [1, 2]) {
      const { hold } = await call(clients.holds, voidHold, { holdId: other }, gm);
      expect(hold?.status).toBe(HoldStatus.VOIDED);
    }
    expect(await used()).toBe(before + 1_200n);
  });
});

async function credit(account: string, reference: string): Promise<void> {
  const body = { amount_ngonka: "1000000000", reference };
  await gateway.done(`POST /api/admin/accounts/${account}/credits`, {
    bearer: ADMIN,
    body,
  });
}

test("afterwards the books are right", async () => {
  const findings = await checkBooks(gateway.sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
});
