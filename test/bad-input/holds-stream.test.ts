import { connect } from "node:http2";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { newId } from "../../src/base/ids.js";
import { ErrorInfoSchema, StatusSchema } from "../../src/gen/google/rpc/errors_pb.js";
import { StreamRequestSchema, StreamResponseSchema } from "../../src/gen/keytoll/v1/hold_pb.js";
import { buildWorld, digestOf, type World } from "./world.js";

const PATH = "/keytoll.v1.HoldService/Stream";

let world: World;
beforeAll(async () => {
  world = await buildWorld();
});
afterAll(() => world?.close());

const INVALID = "INVALID_REQUEST_ERROR";
type Envelope = { error?: { code: string; details?: { value: string }[] } };

/** What ends a stream of Connect's, in JSON: its code, the reason and the field at fault. */
async function endOf(json: string): Promise<string> {
  const session = connect(world.gateway.http);
  const call = session.request({
    ":method": "POST",
    ":path": PATH,
    "content-type": "application/connect+json",
    authorization: `Bearer ${world.credentials.gm}`,
  });
  const head = Buffer.alloc(5);
  head.writeUInt32BE(Buffer.byteLength(json), 1);
  call.end(Buffer.concat([head, Buffer.from(json)]));
  const pieces: Buffer[] = [];
  for await (const piece of call) pieces.push(piece as Buffer);
  session.close();
  // The last envelope, after those with answers
  let bytes = Buffer.concat(pieces);
  while (bytes[0] === 0) bytes = bytes.subarray(5 + bytes.readUInt32BE(1));
  const { error } = JSON.parse(bytes.toString("utf8", 5)) as Envelope;
  const [detail] = error?.details ?? [];
  const info = detail && fromBinary(ErrorInfoSchema, Buffer.from(detail.value, "base64"));
  return `${error?.code} ${info?.reason} ${info?.metadata.param ?? ""}`.trim();
}

const command = (rest: string) => `{"commands":[{"correlation":"1",${rest}}]}`;

const UNREADABLE: [string, string, string][] = [
  ["a field that no command has", command('"void":{"holdId":"x","what":1}'), "what"],
  ["a field that no request has", '{"commands":[],"what":1}', "what"],
  ["a command that we do not know", command('"refund":{"holdId":"x"}'), "refund"],
  [
    "an amount that no int64 holds",
    command('"authorize":{"amountNgonka":"9223372036854775808"}'),
    "amount_ngonka",
  ],
  ["a correlation below zero", '{"commands":[{"correlation":"-1"}]}', "correlation"],
  ["half a document", '{"commands":', ""],
];

test.each(UNREADABLE)(
  "a stream in JSON with %s ends with its name, and changes nothing",
  async (_what, json, param) => {
    const before = await digestOf(world.sql);
    expect(await endOf(json)).toBe(`invalid_argument ${INVALID} ${param}`.trim());
    expect(await digestOf(world.sql)).toEqual(before);
  },
);

test("bytes that are no message end a stream of gRPC as a refusal, after the results of what came before", async () => {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${world.credentials.gm}`);
  const asIs = (bytes: Buffer) => bytes;
  const call = world.clients.grpc.makeBidiStreamRequest(PATH, asIs, asIs, metadata);
  const correlations: bigint[] = [];
  const failed = new Promise<grpc.ServiceError>((resolve) => call.on("error", resolve));
  call.on("data", (bytes: Buffer) => {
    const { results } = fromBinary(StreamResponseSchema, bytes);
    correlations.push(...results.map(({ correlation }) => correlation));
  });
  const value = { holdId: newId() };
  const asked = [1n, 2n].map((correlation) => ({
    correlation,
    command: { case: "void" as const, value },
  }));
  const request = create(StreamRequestSchema, { commands: asked });
  call.write(Buffer.from(toBinary(StreamRequestSchema, request)));
  call.write(Buffer.from([0x0a, 0xff, 0xff]));
  const { code, metadata: trailers } = await failed;
  expect(code).toBe(grpc.status.INVALID_ARGUMENT);
  const [status] = trailers.get("grpc-status-details-bin");
  const [detail] = fromBinary(StatusSchema, status as Buffer).details;
  expect(detail && anyUnpack(detail, ErrorInfoSchema)).toMatchObject({ reason: INVALID });
  expect(correlations.sort()).toEqual([1n, 2n]);
});
