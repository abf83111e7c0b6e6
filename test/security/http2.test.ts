import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { listen, MAX_STREAMS } from "../../src/edge/wire/listen.js";
import { aTable, openDoors, type Seen } from "../edge/wire-table.js";
import { aWire, END_HEADERS, END_STREAM, frame, head, header, settings, TYPE } from "./frames.js";

const MIB = 1024 * 1024;
/** Of the attack, in which a bounded number of connections is tried: what is kept is far below. */
const MOST_MEMORY = 200 * MIB;
/** An attack that is not cut ends by itself. */
const PATIENCE = 1_500;

const seen: Seen = { caller: undefined, chunks: 0, streamEnded: false };
const shown: IncomingMessage["headers"][] = [];
let doors: Awaited<ReturnType<typeof openDoors>>;

function answer(request: IncomingMessage, response: ServerResponse): void {
  shown.push(request.headers);
  response.end("hi");
}
beforeAll(async () => {
  doors = await openDoors(aTable(seen), answer);
});
afterAll(() => doors.close(0));
beforeEach(() => {
  shown.length = 0;
  Object.assign(seen, { chunks: 0, streamEnded: false });
});

const GRPC: [string, string][] = [
  ["content-type", "application/grpc"],
  ["te", "trailers"],
];
const LIST = "/keytoll.v1.InferenceService/ListModels";
const STREAM = "/keytoll.v1.InferenceService/StreamChatCompletion";
const many = (count: number, bytes: Buffer) => Buffer.concat(Array<Buffer>(count).fill(bytes));

/** Asks on connections of its own until it is told to stop. @returns the longest wait, in ms */
function neighbour(): () => Promise<number> {
  let stop = false;
  const asking = (async () => {
    let longest = 0;
    do {
      const start = performance.now();
      const { status } = await fetch(doors.url, { headers: { connection: "close" } });
      expect(status).toBe(200);
      longest = Math.max(longest, performance.now() - start);
    } while (!stop);
    return longest;
  })();
  return () => {
    stop = true;
    return asking;
  };
}

interface Flood {
  first?: Buffer;
  /** The next stream's number is the caller's to count. */
  bytes(): Buffer;
  /** True: what comes back is not read. */
  deaf?: boolean;
}

/** Sends until the connection is cut, or nothing more is read of it, or it has had its time. */
async function flood(port: number, { first, bytes, deaf = false }: Flood) {
  const before = process.memoryUsage().rss;
  const asked = neighbour();
  const wire = await aWire(port);
  if (deaf) wire.socket.pause();
  if (first) await wire.send(first);
  const end = performance.now() + PATIENCE;
  let over: NodeJS.Timeout | undefined;
  const time = new Promise<false>((resolve) => {
    over = setTimeout(() => resolve(false), PATIENCE);
  });
  while (performance.now() < end && (await Promise.race([wire.send(bytes()), time]))) {
    await new Promise(setImmediate);
  }
  clearTimeout(over);
  expect(await asked()).toBeLessThan(5_000);
  expect(process.memoryUsage().rss - before).toBeLessThan(MOST_MEMORY);
  // As good as the first, whatever has become of the attacker
  const started = performance.now();
  expect((await fetch(doors.url)).status).toBe(200);
  expect(performance.now() - started).toBeLessThan(2_000);
  return wire;
}

/** Heads of requests, each on a stream of its own. */
function streams(after: (stream: number) => Buffer[] = () => []) {
  let stream = -1;
  const one = () => {
    stream += 2;
    return [frame(TYPE.headers, END_HEADERS, stream, head(LIST, GRPC)), ...after(stream)];
  };
  return () => Buffer.concat(Array.from({ length: 100 }, one).flat());
}
const reset = (stream: number) => [frame(TYPE.reset, 0, stream, Buffer.from([0, 0, 0, 8]))];

describe.each(["httpPort", "grpcPort"] as const)("on the %s", (port) => {
  const opened = frame(TYPE.headers, 0, 1, head(LIST));
  test.each<[string, Flood]>([
    [
      "continuations without end",
      { first: opened, bytes: () => frame(TYPE.more, 0, 1, header("x-a", "a".repeat(8_000))) },
    ],
    [
      "empty continuations without end",
      { first: opened, bytes: () => many(1_000, frame(TYPE.more, 0, 1)) },
    ],
    ["settings without end", { bytes: () => many(1_000, settings([4, 65_535])) }],
    ["settings whose answers nobody reads", { deaf: true, bytes: () => many(1_000, settings()) }],
    [
      "pings whose answers nobody reads",
      { deaf: true, bytes: () => many(1_000, frame(TYPE.ping, 0, 0, Buffer.alloc(8))) },
    ],
  ])("%s: its connection is cut, all others go on", async (_what, attack) => {
    const wire = await flood(doors[port], attack);
    await wire.closed;
  });

  test("rapid resets: all others go on", async () => {
    // When it is told to go is for node to say, by how fast it reads
    const wire = await flood(doors[port], { bytes: streams(reset) });
    wire.socket.destroy();
  });

  test("settings with 2,000 entries: it is told to go and read no further, all others go on", async () => {
    const many = Array<[number, number]>(2_000).fill([4, 65_535]);
    const wire = await flood(doors[port], { bytes: () => settings(...many) });
    const toldToGo = () => expect(wire.came[TYPE.goaway]).toBe(1);
    await vi.waitFor(toldToGo, { timeout: 10_000 });
    // No answer to anything that comes after
    const pings = wire.came[TYPE.ping];
    wire.socket.write(frame(TYPE.ping, 0, 0, Buffer.alloc(8)));
    expect((await fetch(doors.url)).status).toBe(200);
    expect(wire.came[TYPE.ping]).toBe(pings);
    wire.socket.destroy();
  });

  test("streams beyond those that it may have open are reset, all others go on", async () => {
    const wire = await flood(doors[port], { bytes: streams() });
    const resets = () => expect(wire.came[TYPE.reset]).toBeGreaterThan(99);
    await vi.waitFor(resets, { timeout: 20_000 });
    wire.socket.destroy();
  });

  test("tells how many streams a connection may have open", async () => {
    const wire = await aWire(doors[port]);
    await vi.waitFor(() => expect(wire.first.get(TYPE.settings)).toBeDefined());
    const told = wire.first.get(TYPE.settings) ?? Buffer.alloc(0);
    expect(told.includes(settings([3, MAX_STREAMS]).subarray(9))).toBe(true);
    wire.socket.destroy();
  });

  test("a stream whose reader opens no window is written no further, and ends when its reader leaves", async () => {
    const wire = await aWire(doors[port], [4, 0]);
    const asking = Buffer.from([0x0a, 7, ...Buffer.from("endless"), 0x18, ...[0x80, 0x80, 0x04]]);
    const message = Buffer.from([0x0a, asking.length, ...asking]);
    const length = Buffer.alloc(5);
    length.writeUInt32BE(message.length, 1);
    await wire.send(frame(TYPE.headers, END_HEADERS, 1, head(STREAM, GRPC)));
    await wire.send(frame(0, END_STREAM, 1, Buffer.concat([length, message])));
    let before = -1;
    await vi.waitFor(() => {
      const still = seen.chunks > 0 && seen.chunks === before;
      before = seen.chunks;
      expect(still).toBe(true);
    });
    expect(seen.chunks * 64 * 1024).toBeLessThan(10 * MIB);
    expect(wire.came[TYPE.data]).toBe(0);
    wire.socket.destroy();
    await vi.waitFor(() => expect(seen.streamEnded).toBe(true));
  });
});

test.each(["a\r\nset-cookie: b", "a\nb", "a\rb", "a\0b"])(
  "a header with %j in its value reaches no handler",
  async (value) => {
    const wire = await aWire(doors.httpPort);
    const block = head("/", [["x-a", value]]);
    await wire.send(frame(TYPE.headers, END_HEADERS | END_STREAM, 1, block));
    const { headers = 0, reset: cut = 3 } = TYPE;
    await vi.waitFor(() => {
      expect((wire.came[headers] ?? 0) + (wire.came[cut] ?? 0)).toBeGreaterThan(0);
    });
    for (const each of shown) expect(each["x-a"]).toBeUndefined();
    wire.socket.destroy();
  },
);

test("who was told to go and stays is cut when its idle time is over", async () => {
  const options = { port: 0, host: "127.0.0.1", variable: "PORT", keepAlive: 100 };
  const door = await listen({ ...options, handler: answer });
  const wire = await aWire(door.port);
  await wire.send(settings(...Array<[number, number]>(2_000).fill([4, 65_535])));
  if (!wire.socket.closed) await once(wire.socket, "close");
  expect(wire.came[TYPE.goaway]).toBe(1);
  await door.close(0);
});
