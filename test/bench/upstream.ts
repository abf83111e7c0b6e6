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
const HEAD_END = Buffer.from("\r\n\r\n");
const LENGTH = /content-length: *([0-9]+)/i;

/**
 * Answers each request as soon as its body is there; requests come one at a time on a connection.
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
    bytes = bytes.subarray(headEnd + HEAD_END.length + length);
    socket.write(ANSWER);
  });
}

const server = createServer(serve);
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address() as AddressInfo;
  process.send?.({ ready: `http://127.0.0.1:${port}` });
});
process.once("disconnect", () => process.exit());
