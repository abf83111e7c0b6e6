import {
  create,
  type DescMethod,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Client, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import {
  CreateChatCompletionRequestSchema,
  InferenceService,
  StreamChatCompletionRequestSchema,
} from "../../src/gen/keytoll/v1/inference_pb.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";

let gateway: TestGateway;
let client: Client;
beforeAll(async () => {
  gateway = await startTestGateway();
  client = new Client(gateway.grpc, credentials.createInsecure());
});
afterAll(async () => {
  client.close();
  await gateway.close();
});

const { createChatCompletion, streamChatCompletion, listModels } = InferenceService.method;
const completion = create(CreateChatCompletionRequestSchema, {
  model: "demo/fast",
  messages: [{ role: "user", content: "hi" }],
  maxTokens: 5,
  seed: 7n,
});

function metadataOf(secret: string): Metadata {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${secret}`);
  return metadata;
}
const pathOf = (method: DescMethod) => `/${method.parent.typeName}/${method.name}`;

function call<M extends typeof createChatCompletion | typeof listModels>(
  method: M,
  request: MessageShape<M["input"]>,
  secret: string,
): Promise<MessageShape<M["output"]>> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      pathOf(method),
      (message: MessageShape<M["input"]>) => Buffer.from(toBinary(method.input, message as never)),
      (bytes) => fromBinary(method.output, bytes) as MessageShape<M["output"]>,
      request,
      metadataOf(secret),
      (error, answer) => (answer ? resolve(answer) : reject(error)),
    );
  });
}

function stream(model: string, secret: string) {
  const { input, output } = streamChatCompletion;
  const request = create(StreamChatCompletionRequestSchema, {
    completion: { ...completion, model },
  });
  return client.makeServerStreamRequest(
    pathOf(streamChatCompletion),
    (message: typeof request) => Buffer.from(toBinary(input, message)),
    (bytes) => fromBinary(output, bytes),
    request,
    metadataOf(secret),
  );
}
const costOf = (input: bigint, output: bigint) => priceOf(DEMO_PRICE, input, output).toString();

test("a completion by gRPC is held, answered and captured like one by HTTP", async () => {
  const { secret } = await gateway.createChild();
  const answer = await call(createChatCompletion, completion, secret);
  expect(answer.choices[0]?.message?.content).toBe("This is Keytoll's demo model:");
  expect(answer.choices[0]?.finishReason).toBe("length");
  expect(answer.usage).toMatchObject({ promptTokens: 1, completionTokens: 5 });
  expect(answer.usage?.costUnits).toBe(costOf(1n, 5n));
  const { data } = await call(listModels, create(listModels.input), secret);
  expect(data.map((model) => model.id)).toContain("demo/fast");
});

test("a stream by gRPC brings the text, and its cost in the last message", async () => {
  const { secret } = await gateway.createChild();
  const chunks = [];
  for await (const chunk of stream("demo/fast", secret)) chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  expect(text).toBe("This is Keytoll's demo model:");
  expect(chunks.at(-1)?.usage?.costUnits).toBe(costOf(1n, 5n));
  expect(chunks.slice(0, -1).every((chunk) => chunk.usage === undefined)).toBe(true);
});

test("a cancelled stream by gRPC reaches the upstream and is charged for what was produced", async () => {
  const { id, secret } = await gateway.createChild();
  const running = stream("demo/slow", secret);
  running.on("error", () => {});
  await new Promise((resolve) => running.once("data", resolve));
  running.cancel();
  await vi.waitFor(async () => {
    const records =
      await gateway.sql`select estimated from usage_record where child_key_id = ${id}`;
    expect([...records]).toEqual([{ estimated: true }]);
  });
});

test("refusals by gRPC have the reasons of the table", async () => {
  const { secret } = await gateway.createChild({ limitDaily: 0n });
  const refused = async (request: typeof completion, key: string) =>
    (await call(createChatCompletion, request, key).catch(
      (error: ServiceError) => error,
    )) as ServiceError;
  expect((await refused(completion, secret)).code).toBe(status.RESOURCE_EXHAUSTED);
  expect((await refused(completion, "gc-wrong")).code).toBe(status.UNAUTHENTICATED);
  expect((await refused(completion, gateway.managementSecret)).code).toBe(status.PERMISSION_DENIED);
  expect((await refused({ ...completion, model: "none" }, secret)).code).toBe(status.NOT_FOUND);
  expect((await refused({ ...completion, n: 9 }, secret)).code).toBe(status.INVALID_ARGUMENT);
  const twice = { ...completion, extra: { model: "demo/slow" } };
  expect((await refused(twice, secret)).details).toContain("extra.model");
  const costly = { ...completion, extra: { service_tier: "flex" } };
  expect((await refused(costly, secret)).details).toContain("service_tier");
});
