import { fileURLToPath } from "node:url";
import { Client, type ClientDuplexStream, credentials, Metadata } from "@grpc/grpc-js";
import protobuf from "protobufjs";
import { newId } from "../../src/base/ids.js";
import { type Figures, measure } from "./holds.js";

/** What one process of clients does. */
export interface GrpcLoad {
  /** host:port */
  address: string;
  bearer: string;
  children: string[];
  seconds: number;
  /** Cycles under way at any time. */
  concurrency: number;
  /** A call for each command, or one stream for all. */
  by: "unary" | "stream";
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
type Open = (client: Client, metadata: Metadata, root: protobuf.Root) => Commands;

/** Calls as any backend makes them: the library as it comes, messages from the proto file. */
const openCalls: Open = (client, metadata, root) => {
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
const openStream: Open = (client, metadata, root) => {
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

function codecOf(root: protobuf.Root, request: string, answer: string) {
  const [asked, answered] = [request, answer].map((name) => root.lookupType(`keytoll.v1.${name}`));
  return {
    encode: (message: object) => Buffer.from(asked?.encode(message).finish() ?? []),
    decode: (bytes: Buffer) => answered?.decode(bytes) ?? {},
  };
}

async function open(load: GrpcLoad): Promise<{ cycle: () => Promise<void>; done: () => number }> {
  const client = new Client(load.address, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${load.bearer}`);
  const root = await protobuf.load(PROTO);
  const connect = load.by === "unary" ? openCalls : openStream;
  const { authorize, capture } = connect(client, metadata, root);
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
