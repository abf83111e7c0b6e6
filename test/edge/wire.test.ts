import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { listenGrpc } from "../../src/edge/wire/grpc.js";
import { listen } from "../../src/edge/wire/listen.js";
import { ErrorInfoSchema, StatusSchema } from "../../src/gen/google/rpc/errors_pb.js";
import {
  AuthorizeRequestSchema,
  AuthorizeResponseSchema,
  HoldService,
  HoldStatus,
} from "../../src/gen/keytoll/v1/hold_pb.js";
import {
  InferenceService,
  StreamChatCompletionRequestSchema,
  StreamChatCompletionResponseSchema,
} from "../../src/gen/keytoll/v1/inference_pb.js";
import { aTable, log, openDoors, type Seen } from "./wire-table.js";

const HOLD_ID = "019ab0c4-0000-7000-8000-000000000001";
const seen: Seen = { caller: undefined, chunks: 0, streamEnded: false };
let doors: Awaited<ReturnType<typeof openDoors>>;
let native: grpc.Client;

beforeAll(async () => {
  doors = await openDoors(aTable(seen), (_request, response) => response.end("fallback"));
  native = new grpc.Client(doors.grpcAddress, grpc.credentials.createInsecure());
});
afterAll(async () => {
  native.close();
  await doors.close();
});
beforeEach(() => Object.assign(seen, { caller: undefined, chunks: 0, streamEnded: false }));

interface Outcome {
  left?: bigint | undefined;
  code?: number;
  message?: string;
  reason?: string;
  facts?: Record<string, string>;
}

function ask(amount: bigint) {
  return create(AuthorizeRequestSchema, {
    holdId: HOLD_ID,
    key: { case: "childKeyId", value: "c" },
    size: { case: "amountNgonka", value: amount },
  });
}

function overConnect(transport: () => Parameters<typeof createClient>[1]) {
  return async (amount: bigint): Promise<Outcome> => {
    const client = createClient(HoldService, transport());
    try {
      const headers = { authorization: "Bearer t", "idempotency-key": "k" };
      const answer = await client.authorize(ask(amount), { headers });
      expect(answer.hold?.status).toBe(HoldStatus.OPEN);
      return { left: answer.remaining?.dailyRemaining };
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      const [info] = error.findDetails(ErrorInfoSchema);
      return outcomeOf(error.code, error.rawMessage, info);
    }
  };
}

async function overGrpcJs(amount: bigint): Promise<Outcome> {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", "Bearer t");
  metadata.set("idempotency-key", "k");
  return await new Promise((resolve, reject) => {
    native.makeUnaryRequest(
      "/keytoll.v1.HoldService/Authorize",
      (request: ReturnType<typeof ask>) => Buffer.from(toBinary(AuthorizeRequestSchema, request)),
      (bytes) => fromBinary(AuthorizeResponseSchema, bytes),
      ask(amount),
      metadata,
      (error, answer) => {
        if (answer) return resolve({ left: answer.remaining?.dailyRemaining });
        const [bytes] = error?.metadata.get("grpc-status-details-bin") ?? [];
        if (!error || !(bytes instanceof Buffer)) return reject(error);
        const [any] = fromBinary(StatusSchema, bytes).details;
        resolve(outcomeOf(error.code, error.details, any && anyUnpack(any, ErrorInfoSchema)));
      },
    );
  });
}

function outcomeOf(
  code: number,
  message: string,
  info: { reason: string; domain: string; metadata: Record<string, string> } | undefined,
): Outcome {
  expect(info?.domain).toBe("keytoll");
  const { request_id, ...facts } = info?.metadata ?? {};
  expect(request_id).toMatch(/^[0-9a-f-]{36}$/);
  return { code, message, reason: info?.reason ?? "", facts };
}

const wires: [string, (amount: bigint) => Promise<Outcome>][] = [
  [
    "Connect with JSON over HTTP/1.1",
    overConnect(() => createConnectTransport({ baseUrl: doors.url, httpVersion: "1.1" })),
  ],
  [
    "Connect with protobuf over HTTP/2",
    overConnect(() =>
      createConnectTransport({ baseUrl: doors.url, httpVersion: "2", useBinaryFormat: true }),
    ),
  ],
  [
    "gRPC-web over HTTP/1.1",
    overConnect(() => createGrpcWebTransport({ baseUrl: doors.url, httpVersion: "1.1" })),
  ],
  ["gRPC on the shared port", overConnect(() => createGrpcTransport({ baseUrl: doors.url }))],
  ["gRPC on its own port", overGrpcJs],
];

describe.each(wires)("%s", (_name, call) => {
  test("gives the same answer and tells the handler the same of its caller", async () => {
    expect(await call(40n)).toEqual({ left: 60n });
    expect(seen.caller).toMatchObject({
      authorization: "Bearer t",
      idempotencyKey: "k",
      ip: "127.0.0.1",
    });
    expect(seen.caller?.header("authorization")).toBe("Bearer t");
    expect(seen.caller?.header("no-such-header")).toBeUndefined();
  });

  test("gives the same refusal with its reason and facts", async () => {
    expect(await call(101n)).toEqual({
      code: Code.ResourceExhausted,
      message: "the spend limit of this key is reached",
      reason: "CHILD_KEY_LIMIT_EXCEEDED",
      facts: { daily_remaining: "100", retry_after: "1", should_retry: "true" },
    });
    expect(await call(-1n)).toMatchObject({
      code: Code.InvalidArgument,
      reason: "INVALID_REQUEST_ERROR",
      facts: { param: "amount_ngonka" },
    });
  });
});

test("what a handler did not mean to say reaches no caller", async () => {
  const client = createClient(HoldService, createGrpcTransport({ baseUrl: doors.url }));
  await expect(client.authorize({ holdId: HOLD_ID })).rejects.toMatchObject({
    code: Code.Internal,
    rawMessage: "internal error",
  });
});

async function postJson(body: string): Promise<{ status: number; json: unknown }> {
  const answer = await fetch(`${doors.url}/keytoll.v1.HoldService/Authorize`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  return { status: answer.status, json: await answer.json() };
}

test("JSON over Connect: amounts are strings, names may be snake_case", async () => {
  const { status, json } = await postJson(`{"hold_id":"${HOLD_ID}","amountNgonka":"40"}`);
  expect(status).toBe(200);
  expect(json).toMatchObject({ remaining: { dailyRemaining: "60" } });
});

test.each([
  ["an unknown field", `{"colour":"red"}`, "colour", /^colour: unknown field$/],
  [
    "a float amount",
    `{"amount_ngonka":1.5}`,
    "amount_ngonka",
    /^amount_ngonka: expected bigint \(int64\)/,
  ],
  ["an amount over int64", `{"amount_ngonka":"9223372036854775808"}`, "amount_ngonka", /range/],
  ["a wrong type", `{"hold_id":5}`, "hold_id", /^hold_id: expected string/],
  ["a field given twice", `{"hold_id":"x","hold_id":"y"}`, "hold_id", /^hold_id: given twice$/],
  ["both of two", `{"child_key_id":"x","secret":"y"}`, "key", /child_key_id and secret/],
  ["malformed JSON", `{"hold_id":`, undefined, /JSON/],
])("JSON over Connect: %s is refused by name", async (_what, body, param, message) => {
  const { status, json } = await postJson(body);
  expect(status).toBe(400);
  expect(json).toMatchObject({ code: "invalid_argument", message: expect.stringMatching(message) });
  const [{ type, value }] = (json as { details: [{ type: string; value: string }] }).details;
  expect(type).toBe("google.rpc.ErrorInfo");
  const info = fromBinary(ErrorInfoSchema, Buffer.from(value, "base64"));
  expect(info).toMatchObject({ reason: "INVALID_REQUEST_ERROR", domain: "keytoll" });
  expect(info.metadata.param).toBe(param);
  expect(seen.caller).toBeUndefined();
});

test("a message over 10 MiB is refused, whichever way it goes", async () => {
  const tooLong = "x".repeat(10 * 1024 * 1024);
  expect(await postJson(`{"hold_id":"${tooLong}"}`)).toMatchObject({
    json: { code: "resource_exhausted" },
  });
  const client = createClient(InferenceService, createGrpcTransport({ baseUrl: doors.url }));
  await expect(client.listModels({})).rejects.toMatchObject({ code: Code.ResourceExhausted });
});

function nativeStream(model: string, maxTokens = 0) {
  return native.makeServerStreamRequest(
    "/keytoll.v1.InferenceService/StreamChatCompletion",
    (message: { model: string; maxTokens: number }) => {
      const request = create(StreamChatCompletionRequestSchema, { completion: message });
      return Buffer.from(toBinary(StreamChatCompletionRequestSchema, request));
    },
    (bytes) => fromBinary(StreamChatCompletionResponseSchema, bytes),
    { model, maxTokens },
  );
}

test("streams arrive in order on both ports, a refusal after the last chunk", async () => {
  const transport = createGrpcTransport({ baseUrl: doors.url });
  const stream = createClient(InferenceService, transport).streamChatCompletion({
    completion: { model: "broken" },
  });
  const ids: string[] = [];
  await expect(async () => {
    for await (const chunk of stream) ids.push(chunk.id);
  }).rejects.toMatchObject({ code: Code.DeadlineExceeded });
  expect(ids).toEqual(["1", "2", "3"]);

  const over: string[] = [];
  await expect(async () => {
    for await (const chunk of nativeStream("broken")) over.push(chunk.id);
  }).rejects.toMatchObject({ code: grpc.status.DEADLINE_EXCEEDED });
  expect(over).toEqual(["1", "2", "3"]);
});

test("a caller that hangs up ends the handler, on both ports", async () => {
  const stop = new AbortController();
  const transport = createGrpcTransport({ baseUrl: doors.url });
  const stream = createClient(InferenceService, transport).streamChatCompletion(
    { completion: { model: "endless" } },
    { signal: stop.signal },
  );
  await expect(async () => {
    for await (const chunk of stream) if (chunk.id === "5") stop.abort();
  }).rejects.toThrow();
  await vi.waitFor(() => expect(seen.streamEnded).toBe(true));

  seen.streamEnded = false;
  const call = nativeStream("endless");
  call.on("error", () => {});
  await once(call, "data");
  call.cancel();
  await vi.waitFor(() => expect(seen.streamEnded).toBe(true));
});

test("a reader that stops reading stops the handler before memory fills", async () => {
  const call = nativeStream("endless", 64 * 1024);
  call.on("error", () => {});
  await once(call, "readable");
  let before = -1;
  await vi.waitFor(
    () => {
      const still = seen.chunks === before;
      before = seen.chunks;
      expect(still).toBe(true);
    },
    { interval: 200, timeout: 5_000 },
  );
  expect(seen.chunks * 64 * 1024).toBeLessThan(10 * 1024 * 1024);
  call.cancel();
  await vi.waitFor(() => expect(seen.streamEnded).toBe(true));
});

test("a Host that no URL can have gets 400 and ends nothing", async () => {
  const socket = await connected(doors.httpPort);
  socket.write("POST /keytoll.v1.HoldService/Authorize HTTP/1.1\r\nhost: x y z\r\n");
  socket.write("content-type: application/json\r\ncontent-length: 2\r\n\r\n{}");
  const [bytes] = await once(socket, "data");
  expect(String(bytes)).toMatch(/^HTTP\/1\.1 400 .*invalid_request_error/s);
  socket.destroy();
});

test("what is no RPC goes to the plain-HTTP doors on the same port", async () => {
  expect(await (await fetch(`${doors.url}/anything`)).text()).toBe("fallback");
});

describe("a port", () => {
  test("that is taken is named together with its variable", async () => {
    const { httpPort, grpcPort } = doors;
    const handler = () => {};
    const host = "127.0.0.1";
    await expect(listen({ port: httpPort, host, variable: "PORT", handler })).rejects.toThrow(
      `port ${httpPort} is taken: set PORT`,
    );
    await expect(listenGrpc({ services: [], log, port: grpcPort, host })).rejects.toThrow(
      `port ${grpcPort} is taken: set GRPC_PORT`,
    );
  });

  test.each([
    ["sends its headers slowly", "GET / HTTP/1.1\r\nhost: x\r\n"],
    ["sends nothing", ""],
    ["sends half of HTTP/2's first line", "PRI * HT"],
  ])("cuts a client that %s", async (_what, bytes) => {
    const slow = await openDoors(aTable(seen), (_request, response) => response.end(), 100);
    const socket = await connected(slow.httpPort);
    if (bytes) socket.write(bytes);
    socket.resume();
    await once(socket, "close");
    await slow.close();
  });

  test("serves a client whose first line arrives in pieces", async () => {
    const socket = await connected(doors.httpPort);
    socket.setEncoding("utf8");
    let text = "";
    socket.on("data", (part) => {
      text += part;
    });
    for (const part of ["P", "UT / HT", "TP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"]) {
      socket.write(part);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await once(socket, "close");
    expect(text).toMatch(/^HTTP\/1\.1 200 OK.*fallback/s);
  });

  test("that closes lets a running request end and takes no new one", async () => {
    let arrived = (_response: ServerResponse) => {};
    const arrival = new Promise<ServerResponse>((resolve) => {
      arrived = resolve;
    });
    const own = await openDoors(aTable(seen), (_request, response) => arrived(response));
    const running = fetch(own.url);
    const response = await arrival;

    const closed = own.close(5_000);
    await expect(connected(own.httpPort)).rejects.toThrow(/ECONNREFUSED/);
    response.end("late");
    expect(await (await running).text()).toBe("late");
    await closed;
  });
});

async function connected(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  return socket;
}
