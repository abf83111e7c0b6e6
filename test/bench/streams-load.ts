import { connect } from "node:net";
import { elapsed, pause, SECOND } from "../../src/base/time.js";

/** Streams that are opened over a second, and read for `seconds` once all of them run. */
export interface PacedLoad {
  url: string;
  keys: string[];
  body: string;
  streams: number;
  seconds: number;
}

export interface PacedFigures {
  /** Tokens that came while all streams were open, of those that the pace makes due. */
  share: number;
  /** Milliseconds by which tokens came later than the pace has it, after the stream's first. */
  p50: number;
  p99: number;
  failed: number;
  /** Of the whole run. */
  seconds: number;
}

const PACE_MS = 10;
/** The longest that streams may take to begin. */
const OPENING = 20 * SECOND;
const DATA = Buffer.from("data: {");

interface Reading {
  first: number;
  tokens: number;
  failed: boolean;
}

/** Reads one stream on a connection of its own. Each event of it is a token. */
function open(load: PacedLoad, index: number, late: number[], measuring: () => boolean) {
  const { hostname, port, host } = new URL(load.url);
  const key = load.keys[index % load.keys.length];
  const socket = connect(Number(port), hostname);
  const reading: Reading = { first: 0, tokens: 0, failed: false };
  let counted = 0;
  socket.on("error", () => {
    reading.failed = true;
  });
  socket.on("data", (piece) => {
    const at = elapsed();
    if (counted === 0 && piece.includes("HTTP/1.1") && !piece.includes("HTTP/1.1 200")) {
      reading.failed = true;
    }
    for (let from = piece.indexOf(DATA); from !== -1; from = piece.indexOf(DATA, from + 1)) {
      if (counted === 0) reading.first = at;
      if (measuring()) {
        reading.tokens += 1;
        late.push(Math.max(0, at - reading.first - counted * PACE_MS));
      }
      counted += 1;
    }
  });
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: ${host}\r\nauthorization: Bearer ${key}\r\n` +
      `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(load.body)}\r\n\r\n${load.body}`,
  );
  return { reading, close: () => socket.destroy() };
}

const isSilent = ({ reading }: { reading: Reading }): boolean => reading.first === 0;

async function run(load: PacedLoad): Promise<PacedFigures> {
  const start = elapsed();
  const late: number[] = [];
  let measuring = false;
  const all: ReturnType<typeof open>[] = [];
  for (let i = 0; i < load.streams; i++) {
    all.push(open(load, i, late, () => measuring));
    if (i % 10 === 9) await pause((10 * SECOND) / load.streams);
  }
  for (let waited = 0; waited < OPENING && all.some(isSilent); waited += 50) await pause(50);
  // What is looked at now, while all are open, has passed before their tokens are counted
  process.send?.({ open: true });
  await pause(SECOND);
  measuring = true;
  const from = elapsed();
  await pause(load.seconds * SECOND);
  measuring = false;
  const due = (load.streams * (elapsed() - from)) / PACE_MS;
  for (const { close } of all) close();
  late.sort((a, b) => a - b);
  const at = (share: number) => Math.round(late[Math.floor(late.length * share)] ?? Number.NaN);
  return {
    share: Number((all.reduce((sum, { reading }) => sum + reading.tokens, 0) / due).toFixed(3)),
    p50: at(0.5),
    p99: at(0.99),
    failed: all.filter((it) => it.reading.failed || isSilent(it)).length,
    seconds: (elapsed() - start) / SECOND,
  };
}

process.on("message", (load: PacedLoad) => {
  void run(load).then((figures) => {
    process.send?.({ figures });
    process.disconnect();
    process.exit();
  });
});
process.send?.({ ready: "streams" });
