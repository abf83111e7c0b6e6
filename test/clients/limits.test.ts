import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { connect as connectHttp2, constants } from "node:http2";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";
import { expectBooksAreRight } from "../support/books.js";
import { startTestGateway, type TestGateway } from "../support/gateway.js";

const MIB = 1024 * 1024;
const LIMIT = 10 * MIB;
/** Milliseconds: enough for a call to reach the upstream, even on a busy machine. */
const SOON = 1_000;
const PATH = "/keytoll.v1.InferenceService";
const { createChatCompletion, streamChatCompletion } = InferenceService.method;
const messages = [{ role: "user", content: "hello" }];

/** An upstream that never comes to an end, and tells when its caller has left. */
const upstream = {
  server: createServer((request, response) => {
    upstream.asked += 1;
    response.once("close", () => {
      upstream.left += 1;
    });
    let body = "";
    request.on("data", (piece) => {
      body += piece;
    });
    request.on("end", () => {
      if (JSON.parse(body).stream) writeOn(response);
    });
  }),
  asked: 0,
  left: 0,
};

function writeOn(response: ServerResponse): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  const choices = [{ index: 0, delta: { content: "and so on " }, finish_reason: null }];
  const timer = setInterval(() => {
    response.write(`data: ${JSON.stringify({ id: "x", choices })}\n\n`);
  }, 20);
  response.once("close", () => clearInterval(timer));
}

let gateway: TestGateway;
let client: grpc.Client;
let child: { id: string; secret: string };

beforeAll(async () => {
  await once(upstream.server.listen(0, "127.0.0.1"), "listening");
  const { port } = upstream.server.address() as AddressInfo;
  gateway = await startTestGateway({ upstreamUrl: `http://127.0.0.1:${port}` });
  client = new grpc.Client(gateway.grpc, grpc.credentials.createInsecure(), {
    "grpc.max_send_message_length": -1,
  });
  // What is compiled first takes longer than the deadlines below
  child = await gateway.createChild();
  await endOf("CreateChatCompletion", 3_000);
  await vi.waitFor(() => expect(upstream.left).toBe(upstream.asked));
});
afterAll(async () => {
  client?.close();
  upstream.server.closeAllConnections();
  upstream.server.close();
  await gateway?.close();
});
beforeEach(async () => {
  Object.assign(upstream, { asked: 0, left: 0 });
  child = await gateway.createChild();
});

const metadataOf = (secret: string): grpc.Metadata => {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${secret}`);
  return metadata;
};

/** How a call of grpc-js ends. */
function endOf(method: "CreateChatCompletion" | "StreamChatCompletion", deadline?: number) {
  const isUnary = method === "CreateChatCompletion";
  const asked = { model: "demo/fast", messages };
  const bytes = isUnary
    ? toBinary(createChatCompletion.input, create(createChatCompletion.input, asked))
    : toBinary(
        streamChatCompletion.input,
        create(streamChatCompletion.input, { completion: asked }),
      );
  const same = (buffer: Buffer) => buffer;
  const options = deadline === undefined ? {} : { deadline: Date.now() + deadline };
  const request = [`${PATH}/${method}`, same, same, Buffer.from(bytes)] as const;
  const metadata = metadataOf(child.secret);
  return new Promise<Partial<grpc.StatusObject>>((resolve) => {
    if (isUnary) {
      const call = client.makeUnaryRequest(...request, metadata, options, () => {});
      call.on("status", resolve);
    } else {
      const call = client.makeServerStreamRequest(...request, metadata, options);
      call.on("data", () => {}).on("error", () => {});
      call.on("status", resolve);
    }
  });
}

/** A call that is cut by the server alone: fetch heeds no deadline of its own. */
async function overConnect(method: string, headers: Record<string, string>) {
  const asked = { model: "demo/fast", messages };
  const isStream = method === "StreamChatCompletion";
  const json = Buffer.from(JSON.stringify(isStream ? { completion: asked } : asked));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(json.length, 1);
  const type = isStream ? "application/connect+json" : "application/json";
  const answer = await fetch(`${gateway.url}${PATH}/${method}`, {
    method: "POST",
    headers: {
      ...{ "content-type": type, "connect-protocol-version": "1" },
      ...{ authorization: `Bearer ${child.secret}`, ...headers },
    },
    body: isStream ? Buffer.concat([head, json]) : json,
  });
  return { status: answer.status, text: await answer.text() };
}

/** Once the upstream has been left and the hold has ended: what was captured of the child. */
async function outcome() {
  await vi.waitFor(
    async () => {
      expect([upstream.asked, upstream.left]).toEqual([1, 1]);
      const open = await gateway.sql`select from open_hold where child_key_id = ${child.id}`;
      expect(open.length).toBe(0);
    },
    { timeout: 10_000 },
  );
  await expectBooksAreRight(gateway.sql);
  const rows = await gateway.sql<{ estimated: boolean; written: boolean }[]>`
    select estimated, output_tokens > 0 as written from usage_record
     where child_key_id = ${child.id}`;
  return [...rows];
}

describe("a deadline that passes cuts the upstream, ends the hold, and is told", () => {
  const deadline = { code: grpc.status.DEADLINE_EXCEEDED };

  test("to a call of grpc-js, which pays nothing", async () => {
    expect(await endOf("CreateChatCompletion", SOON)).toMatchObject(deadline);
    expect(await outcome()).toEqual([]);
  });

  test("to a stream of grpc-js, which pays for what was written", async () => {
    expect(await endOf("StreamChatCompletion", SOON)).toMatchObject(deadline);
    expect(await outcome()).toEqual([{ estimated: true, written: true }]);
  });

  test("to a call of Connect", async () => {
    const { status, text } = await overConnect("CreateChatCompletion", {
      "connect-timeout-ms": String(SOON),
    });
    expect([status, JSON.parse(text).code]).toEqual([504, "deadline_exceeded"]);
    expect(await outcome()).toEqual([]);
  });

  test("to a stream of Connect", async () => {
    const { text } = await overConnect("StreamChatCompletion", {
      "connect-timeout-ms": String(SOON),
    });
    expect(text).toContain("and so on");
    expect(text).toContain('"code":"deadline_exceeded"');
    expect(await outcome()).toEqual([{ estimated: true, written: true }]);
  });

  test("to a gRPC call on the shared port", async () => {
    const session = connectHttp2(gateway.url);
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: "POST",
      [constants.HTTP2_HEADER_PATH]: `${PATH}/CreateChatCompletion`,
      "content-type": "application/grpc+json",
      authorization: `Bearer ${child.secret}`,
      "grpc-timeout": `${SOON}m`,
      te: "trailers",
    });
    const json = Buffer.from(JSON.stringify({ model: "demo/fast", messages }));
    const head = Buffer.alloc(5);
    head.writeUInt32BE(json.length, 1);
    stream.end(Buffer.concat([head, json]));
    stream.resume();
    const [trailers] = await once(stream, "trailers");
    expect(trailers["grpc-status"]).toBe(String(grpc.status.DEADLINE_EXCEEDED));
    session.close();
    expect(await outcome()).toEqual([]);
  });
});

test("a client may ping as often as it likes, and stays connected", async () => {
  const pinging = new grpc.Client(gateway.grpc, grpc.credentials.createInsecure(), {
    "grpc.keepalive_time_ms": 20,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
  });
  const same = (buffer: Buffer) => buffer;
  const metadata = metadataOf("gc-none");
  const watch = pinging.makeServerStreamRequest(
    "/grpc.health.v1.Health/Watch",
    same,
    same,
    Buffer.alloc(0),
    metadata,
  );
  watch.on("data", () => {}).on("error", () => {});
  const ended = new Promise((resolve) => watch.once("status", resolve));
  const channel = pinging.getChannel();
  await once(watch, "data");
  const session = connectHttp2(gateway.url);
  await once(session, "connect");
  for (let i = 0; i < 50; i++) {
    await new Promise((done, failed) => session.ping((error) => (error ? failed(error) : done(0))));
  }
  expect(session.closed).toBe(false);
  session.close();
  expect(channel.getConnectivityState(false)).toBe(grpc.connectivityState.READY);
  watch.cancel();
  expect(await ended).toMatchObject({ code: grpc.status.CANCELLED });
  pinging.close();
});

describe("what is too large is refused, and takes no memory", () => {
  /** 256 MiB in a quarter of one. */
  const bomb = gzipSync(Buffer.alloc(256 * MIB), { level: 1 });
  const refused = { code: grpc.status.RESOURCE_EXHAUSTED };

  async function memoryOf<T>(act: () => Promise<T>): Promise<[T, number]> {
    const before = process.memoryUsage().rss;
    let most = before;
    const timer = setInterval(() => {
      most = Math.max(most, process.memoryUsage().rss);
    }, 5);
    const result = await act();
    clearInterval(timer);
    return [result, Math.max(most, process.memoryUsage().rss) - before];
  }

  /** A compressed gRPC message as bytes, which no client of good will would send. */
  async function sendGrpc(base: string, message: Buffer): Promise<string> {
    const session = connectHttp2(base);
    session.on("error", () => {});
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: "POST",
      [constants.HTTP2_HEADER_PATH]: `${PATH}/CreateChatCompletion`,
      "content-type": "application/grpc+proto",
      "grpc-encoding": "gzip",
      te: "trailers",
    });
    const ended = new Promise<string>((resolve) => {
      const take = (headers: Record<string, unknown>) => {
        if (headers["grpc-status"] !== undefined) resolve(String(headers["grpc-status"]));
      };
      stream
        .on("response", take)
        .on("trailers", take)
        .on("error", () => {});
    });
    const head = Buffer.alloc(5);
    head.writeUInt8(1, 0);
    head.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([head, message]));
    stream.resume();
    const status = await ended;
    session.destroy();
    return status;
  }

  test.each([
    ["its own port", () => `http://${gateway.grpc}`],
    ["the shared port", () => gateway.url],
  ])("a bomb by gRPC on %s", async (_port, base) => {
    const [status, memory] = await memoryOf(() => sendGrpc(base(), bomb));
    expect(status).toBe(String(refused.code));
    expect(memory).toBeLessThan(100 * MIB);
  });

  test("a bomb by Connect", async () => {
    const send = () =>
      fetch(`${gateway.url}${PATH}/CreateChatCompletion`, {
        method: "POST",
        headers: { "content-type": "application/json", "content-encoding": "gzip" },
        body: bomb,
      }).then((answer) => answer.json());
    const [answer, memory] = await memoryOf(send);
    expect(answer).toMatchObject({ code: "resource_exhausted" });
    expect(memory).toBeLessThan(100 * MIB);
  });

  test("a request over 10 MiB of grpc-js, which can go on afterwards", async () => {
    const large = Buffer.alloc(LIMIT + 1);
    const same = (buffer: Buffer) => buffer;
    const ask = (bytes: Buffer) =>
      new Promise<Partial<grpc.ServiceError> | null>((resolve) => {
        const metadata = metadataOf(child.secret);
        client.makeUnaryRequest(`${PATH}/ListModels`, same, same, bytes, metadata, resolve);
      });
    expect(await ask(large)).toMatchObject(refused);
    expect(await ask(Buffer.alloc(0))).toBeNull();
  });
});

test("compressed requests are read, and long answers of the shared port come compressed", async () => {
  const compressing = new grpc.Client(gateway.grpc, grpc.credentials.createInsecure(), {
    "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
  });
  const { input, output } = InferenceService.method.listModels;
  const models = await new Promise<string[]>((resolve, reject) => {
    compressing.makeUnaryRequest(
      `${PATH}/ListModels`,
      () => Buffer.from(toBinary(input, create(input))),
      (bytes: Buffer) => fromBinary(output, bytes).data.map(({ id }) => id),
      {},
      metadataOf(child.secret),
      (error, answer) => (answer ? resolve(answer) : reject(error)),
    );
  });
  expect(models).toContain("demo/fast");
  compressing.close();
  const answer = await fetch(`${gateway.url}${PATH}/ListModels`, {
    method: "POST",
    headers: {
      ...{ "content-type": "application/json", "content-encoding": "gzip" },
      ...{ "accept-encoding": "gzip", authorization: `Bearer ${child.secret}` },
    },
    body: gzipSync("{}"),
  });
  expect(answer.headers.get("content-encoding")).toBe("gzip");
  expect(JSON.stringify(await answer.json())).toContain("demo/fast");
});
