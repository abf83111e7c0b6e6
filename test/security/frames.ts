import { once } from "node:events";
import { connect, type Socket } from "node:net";

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

export const TYPE = {
  data: 0,
  headers: 1,
  reset: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  window: 8,
  more: 9,
};
export const END_STREAM = 1;
export const END_HEADERS = 4;

/** One frame of HTTP/2, right or wrong: nothing is checked. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  body: Buffer = Buffer.alloc(0),
): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(body.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, body]);
}

/** A header that no table knows and no Huffman code packs, as HPACK writes it. */
export function header(name: string, value: string): Buffer {
  return Buffer.concat([Buffer.from([0]), text(name), text(value)]);
}

function text(of: string): Buffer {
  const bytes = Buffer.from(of, "latin1");
  if (bytes.length < 127) return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  const length = [127];
  let rest = bytes.length - 127;
  for (; rest >= 128; rest >>= 7) length.push((rest & 127) | 128);
  return Buffer.concat([Buffer.from([...length, rest]), bytes]);
}

/** The head of a request. */
export const head = (path: string, more: [string, string][] = [], method = "POST"): Buffer =>
  Buffer.concat(
    [[":method", method], [":scheme", "http"], [":authority", "x"], [":path", path], ...more].map(
      ([name = "", value = ""]) => header(name, value),
    ),
  );

export function settings(...pairs: [id: number, value: number][]): Buffer {
  const body = Buffer.alloc(6 * pairs.length);
  for (const [i, [id, value]] of pairs.entries()) {
    body.writeUInt16BE(id, 6 * i);
    body.writeUInt32BE(value, 6 * i + 2);
  }
  return frame(TYPE.settings, 0, 0, body);
}

export interface Wire {
  socket: Socket;
  /** Frames that came, by type. */
  came: number[];
  /** The body of the first one of a type. */
  first: Map<number, Buffer>;
  /** Writes, and waits while the other side reads nothing. @returns false when it has closed */
  send(bytes: Buffer): Promise<boolean>;
  closed: Promise<void>;
}

/** A connection of HTTP/2 made by hand, its settings sent. */
export async function aWire(port: number, ...pairs: [number, number][]): Promise<Wire> {
  const socket = connect(port, "127.0.0.1");
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  socket.on("error", () => {});
  await once(socket, "connect");
  const came = Array<number>(10).fill(0);
  const first = new Map<number, Buffer>();
  let rest = Buffer.alloc(0);
  socket.on("data", (bytes) => {
    rest = Buffer.concat([rest, bytes]);
    for (let size = 9; rest.length >= 9; rest = rest.subarray(size)) {
      size = 9 + rest.readUIntBE(0, 3);
      if (rest.length < size) break;
      const type = rest[3] ?? 0;
      came[type] = (came[type] ?? 0) + 1;
      if (!first.has(type)) first.set(type, rest.subarray(9, size));
    }
  });
  const send = async (bytes: Buffer) => {
    if (socket.destroyed) return false;
    if (!socket.write(bytes)) {
      const drained = new Promise<void>((resolve) => socket.once("drain", resolve));
      await Promise.race([drained, closed]);
    }
    return !socket.destroyed;
  };
  await send(Buffer.concat([PREFACE, settings(...pairs)]));
  return { socket, came, first, send, closed };
}
