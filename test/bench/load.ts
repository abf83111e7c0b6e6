import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import { elapsed, pause } from "../../src/base/time.js";

/** What one run of the load generator does. */
export interface Load {
  url: string;
  path: string;
  /** Bearer keys: one for each connection, in turn. */
  keys: string[];
  /** True: any of them for each request instead, so that many are in use at once. */
  anyKey?: boolean;
  /** True: each request has an Idempotency-Key of its own. */
  idempotent?: boolean;
  body: string;
  seconds: number;
  /** Connections, each with one request at a time. */
  concurrency: number;
  /** Requests a second in all, evenly spread; as many as possible when absent. */
  rate?: number;
}

export interface LoadFigures {
  perSecond: number;
  /** Milliseconds. */
  p50: number;
  p99: number;
  /** Answers other than 200. */
  failed: number;
  /** Requests of the whole run, those of its warm-up included. */
  total: number;
}

const WARM_UP_MS = 2_000;
const HEAD_END = Buffer.from("\r\n\r\n");
const LENGTH = /content-length: *([0-9]+)/i;
const OK = "HTTP/1.1 200";

/** Sends one request and resolves with whether its answer was a success. */
type Call = () => Promise<boolean>;

/** A kept-alive connection of its own, in as little CPU time as node allows. */
function openCall(load: Load, index: number): Call {
  const { hostname, port, host } = new URL(load.url);
  const once = () => (load.idempotent ? `idempotency-key: ${randomUUID()}\r\n` : "");
  const requestWith = (key = "") =>
    Buffer.from(
      `POST ${load.path} HTTP/1.1\r\nhost: ${host}\r\nauthorization: Bearer ${key}\r\n${once()}` +
        `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(load.body)}\r\n\r\n${load.body}`,
    );
  const own = requestWith(load.keys[index % load.keys.length]);
  const request = () => {
    if (load.anyKey) return requestWith(load.keys[Math.floor(Math.random() * load.keys.length)]);
    return load.idempotent ? requestWith(load.keys[index % load.keys.length]) : own;
  };
  const socket = connect(Number(port), hostname);
  let bytes = Buffer.alloc(0);
  let answered: (ok: boolean) => void = () => {};
  socket.setNoDelay(true);
  socket.on("close", () => {
    throw new Error(`${load.url} has closed a connection`);
  });
  socket.on("data", (piece) => {
    bytes = bytes.length === 0 ? piece : Buffer.concat([bytes, piece]);
    const headEnd = bytes.indexOf(HEAD_END);
    if (headEnd === -1) return;
    const head = bytes.toString("latin1", 0, headEnd);
    const end = headEnd + HEAD_END.length + Number(LENGTH.exec(head)?.[1] ?? 0);
    if (bytes.length < end) return;
    bytes = bytes.subarray(end);
    answered(head.startsWith(OK));
  });
  return () =>
    new Promise((resolve) => {
      answered = resolve;
      socket.write(request());
    });
}

async function run(load: Load): Promise<LoadFigures> {
  const times: number[] = [];
  let failed = 0;
  let phase: "warming" | "measuring" | "over" = "warming";
  let total = 0;
  const timed = async (call: Call) => {
    const start = elapsed();
    const ok = await call();
    total += 1;
    if (phase !== "measuring") return;
    times.push(elapsed() - start);
    if (!ok) failed += 1;
  };
  const calls = Array.from({ length: load.concurrency }, (_, i) => openCall(load, i));
  const isOver = () => phase === "over";
  const done =
    load.rate === undefined
      ? Promise.all(calls.map((call) => flatOut(() => timed(call), isOver)))
      : evenly(calls, load.rate, timed, isOver);
  await pause(WARM_UP_MS);
  phase = "measuring";
  const start = elapsed();
  await pause(load.seconds * 1_000);
  phase = "over";
  const took = elapsed() - start;
  await done;
  times.sort((a, b) => a - b);
  const at = (share: number) =>
    Number((times[Math.floor(times.length * share)] ?? Number.NaN).toFixed(3));
  const perSecond = Math.round((times.length * 1_000) / took);
  return { perSecond, p50: at(0.5), p99: at(0.99), failed, total };
}

async function flatOut(work: () => Promise<void>, isOver: () => boolean): Promise<void> {
  while (!isOver()) await work();
}

/**
 * Starts a call each 1/rate seconds, on the connection that was idle longest: none may be closed
 * for idling.
 */
async function evenly(
  calls: Call[],
  rate: number,
  timed: (call: Call) => Promise<void>,
  isOver: () => boolean,
): Promise<void> {
  const idle = [...calls];
  const start = elapsed();
  for (let sent = 0; !isOver(); ) {
    const due = Math.floor(((elapsed() - start) * rate) / 1_000);
    for (; sent < due; sent++) {
      const call = idle.shift();
      if (call) void timed(call).then(() => idle.push(call));
    }
    await pause(1);
  }
}

process.on("message", (load: Load) => {
  void run(load).then((figures) => {
    process.send?.({ figures });
    process.disconnect();
    process.exit();
  });
});
process.send?.({ ready: "load" });
