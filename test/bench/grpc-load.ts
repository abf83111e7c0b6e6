import { fileURLToPath } from "node:url";
import { Client, type ClientDuplexStream, credentials, Metadata } from "@grpc/grpc-js";
import protobuf from "protobufjs";
import { Pool } from "undici";
import { newId } from "../../src/base/ids.js";
import { type Figures, measure } from "./holds.js";

/** What one process of clients does. */
export interface GrpcLoad {
  /** host:port of gRPC */
  address: string;
  /** Base URL of Connect. */
  http: string;
  bearer: string;
  children: string[];
  seconds: number;
  /** Cycles under way at any time. */
  concurrency: number;
  /** A call for each command, one stream for all, or a request of Connect in JSON for each. */
  by: "unary" | "stream" | "connect";
}

/** What it tells once its time is over. */
export interface GrpcFigures extends Figures {
  /** Since it was told to go: more than were measured. */
  cycles: number;
}

const AMOUNT = 1_000;
const COST = 600;
const WARM_UP = 2;
const SERVICE = "/keytoll.v1.HoldService";
const PROTO = fileURLToPath(new URL("../../proto/keytoll/v1/hold.proto", import.meta.url));

type Command = (message: object) => Promise<object>;
type Commands = Record<"authorize" | "capture", Command>;
type Open = (load: GrpcLoad, root: protobuf.Root) => Commands;

/** Calls as any backend makes them: the library as it comes, messages from the proto file. */
const openCalls: Open = (load, root) => {
  const { client, metadata } = clientOf(load);
  const commandOf = (name: string): Command => {
    const { encode, decode } = codecOf(root, `${name}Request`, `${name}Response`);
    return (message) =>
      new Promise((resolve, reject) => {
        const done = (error: Error | null, value?: object) =>
          value ? resolve(value) : reject(error);
        client.makeUnaryRequest(`${SERVICE}/${name}`, encode, decode, message, metadata, done);
      });
  };
  return { authorize: commandOf("Authorize"), capture: commandOf("Capture") };
};

type Waiting = { resolve: (value: object) => void; reject: (error: unknown) => void };
type Result = { correlation: unknown; refusal?: { reason: string } };

/** One stream for all: what a turn of the event loop asks goes out together. */
const openStream: Open = (load, root) => {
  const { client, metadata } = clientOf(load);
  const { encode, decode } = codecOf(root, "StreamRequest", "StreamResponse");
  const waiting = new Map<string, Waiting>();
  const stream: ClientDuplexStream<object, object> = client.makeBidiStreamRequest(
    `${SERVICE}/Stream`,
    encode,
    decode,
    metadata,
  );
  stream.on("data", ({ results }: { results: Result[] }) => {
    for (const result of results) {
      const correlation = String(result.correlation);
      const { resolve, reject } = waiting.get(correlation) ?? {};
      waiting.delete(correlation);
      if (result.refusal) reject?.(new Error(result.refusal.reason));
      else resolve?.(result);
    }
  });
  stream.on("error", (error) => {
    for (const { reject } of waiting.values()) reject(error);
  });
  let sent = 0;
  let commands: object[] = [];
  const flush = () => {
    stream.write({ commands });
    commands = [];
  };
  const commandOf =
    (name: string): Command =>
    (message) =>
      new Promise((resolve, reject) => {
        if (commands.length === 0) setImmediate(flush);
        sent += 1;
        waiting.set(String(sent), { resolve, reject });
        commands.push({ correlation: sent, [name]: message });
      });
  return { authorize: commandOf("authorize"), capture: commandOf("capture") };
};

/** Connect in JSON over HTTP/1.1, by the leanest client there is. */
const openConnect: Open = ({ http, bearer, concurrency }) => {
  const pool = new Pool(http, { connections: concurrency, pipelining: 1 });
  const headers = { "content-type": "application/json", authorization: `Bearer ${bearer}` };
  const commandOf =
    (name: string): Command =>
    async (message) => {
      const body = JSON.stringify(message);
      const path = `${SERVICE}/${name}`;
      const answer = await pool.request({ method: "POST", path, headers, body });
      const json = await answer.body.text();
      if (answer.statusCode !== 200) throw new Error(json);
      return JSON.parse(json) as object;
    };
  return { authorize: commandOf("Authorize"), capture: commandOf("Capture") };
};

const OPEN = { unary: openCalls, stream: openStream, connect: openConnect };

function clientOf({ address, bearer }: GrpcLoad) {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${bearer}`);
  return { client: new Client(address, credentials.createInsecure()), metadata };
}

function codecOf(root: protobuf.Root, request: string, answer: string) {
  const [asked, answered] = [request, answer].map((name) => root.lookupType(`keytoll.v1.${name}`));
  return {
    encode: (message: object) => Buffer.from(asked?.encode(message).finish() ?? []),
    decode: (bytes: Buffer) => answered?.decode(bytes) ?? {},
  };
}

async function open(load: GrpcLoad): Promise<{ cycle: () => Promise<void>; done: () => number }> {
  const { authorize, capture } = OPEN[load.by](load, await protobuf.load(PROTO));
  let cycles = 0;
  const { children } = load;
  return {
    done: () => cycles,
    async cycle() {
      const holdId = newId();
      const childKeyId = children[Math.floor(Math.random() * children.length)];
      await authorize({ holdId, childKeyId, amountNgonka: AMOUNT });
      await capture({ holdId, costNgonka: COST });
      cycles += 1;
    },
  };
}

process.once("message", async (load: GrpcLoad) => {
  const { cycle, done } = await open(load);
  // A gateway that has only just started must first be compiled to its full speed
  await measure(cycle, { ...load, seconds: WARM_UP });
  process.once("message", async () => {
    const before = done();
    const figures = await measure(cycle, load);
    process.send?.({ ...figures, cycles: done() - before });
  });
  process.send?.("warm");
});
process.once("disconnect", () => process.exit());
process.send?.("ready");
