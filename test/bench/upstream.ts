import { type AddressInfo, createServer, type Socket } from "node:net";

/**
 * One answer of 1 KB in the wire format, written beforehand: nothing but the sockets costs time
 * here.
 */
const BODY = JSON.stringify({
  id: "chatcmpl-AbCdEf0123456789AbCdEf012345",
  object: "chat.completion",
  created: 1_700_000_000,
  model: "bench/fast",
  choices: [
    {
      index: 0,
      message: {
        role: "assistant",
        content: "Forty words of an answer that nobody reads, again and again. ".repeat(8).trim(),
        refusal: null,
      },
      logprobs: null,
      finish_reason: "stop",
    },
  ],
  usage: {
    prompt_tokens: 212,
    completion_tokens: 78,
    total_tokens: 290,
    prompt_tokens_details: { cached_tokens: 0 },
  },
  system_fingerprint: "fp_0123456789",
});
const ANSWER = Buffer.from(
  `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`,
);
const STREAM = Buffer.from('"stream":true');
const HEAD_END = Buffer.from("\r\n\r\n");
const LENGTH = /content-length: *([0-9]+)/i;

const HEAD =
  "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const PACE_MS = 10;

/** The wire format of one more token of a stream, as a chunk of its own. */
function tokenOf(delta: object): Buffer {
  const event = `data: ${JSON.stringify({
    id: "chatcmpl-AbCdEf0123456789AbCdEf012345",
    object: "chat.completion.chunk",
    created: 1_700_000_000,
    model: "bench/fast",
    choices: [{ index: 0, delta, logprobs: null, finish_reason: null }],
    usage: null,
  })}\n\n`;
  return Buffer.from(`${event.length.toString(16)}\r\n${event}\r\n`);
}

const FIRST = tokenOf({ role: "assistant", content: "" });
const TOKEN = tokenOf({ content: " token" });

/** Streams that are open, by the step in which each gets its tokens: evenly over the pace. */
const lanes: Set<Socket>[] = Array.from({ length: PACE_MS }, () => new Set());
let step = 0;
let opened = 0;
let begun = performance.now();

/** One step for each millisecond that has passed, also where the timer came late. */
function tick(): void {
  const due = Math.floor(performance.now() - begun);
  for (; step < due; step++) for (const socket of lanes[step % PACE_MS] ?? []) socket.write(TOKEN);
}

function stream(socket: Socket): void {
  if (opened === 0) {
    begun = performance.now();
    setInterval(tick, 1);
  }
  const lane = lanes[opened++ % PACE_MS];
  socket.write(HEAD);
  socket.write(FIRST);
  lane?.add(socket);
  socket.once("close", () => lane?.delete(socket));
}

/**
 * Answers each request as soon as its body is there; requests come one at a time on a connection.
 * A stream goes on until its reader hangs up.
 */
function serve(socket: Socket): void {
  let bytes = Buffer.alloc(0);
  socket.setNoDelay(true);
  socket.on("error", () => socket.destroy());
  socket.on("data", (piece) => {
    bytes = bytes.length === 0 ? piece : Buffer.concat([bytes, piece]);
    const headEnd = bytes.indexOf(HEAD_END);
    if (headEnd === -1) return;
    const length = Number(LENGTH.exec(bytes.toString("latin1", 0, headEnd))?.[1] ?? 0);
    if (bytes.length < headEnd + HEAD_END.length + length) return;
    const body = bytes.subarray(headEnd + HEAD_END.length, headEnd + HEAD_END.length + length);
    bytes = bytes.subarray(headEnd + HEAD_END.length + length);
    if (body.includes(STREAM)) stream(socket);
    else socket.write(ANSWER);
  });
}

const server = createServer(serve);
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address() as AddressInfo;
  process.send?.({ ready: `http://127.0.0.1:${port}` });
});
process.once("disconnect", () => process.exit());
