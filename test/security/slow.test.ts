import { once } from "node:events";
import { connect } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import { readBody } from "../../src/edge/wire/answer.js";
import { listen } from "../../src/edge/wire/listen.js";

let door: Awaited<ReturnType<typeof listen>>;
afterEach(() => door.close(0));

test.each([
  ["says nothing", ""],
  ["begins to say which protocol it speaks", "PRI * HT"],
  ["never ends its headers", "GET / HTTP/1.1\r\nHost: x\r\nX-A: "],
])("a client that %s is cut, whatever it drips", async (_what, bytes) => {
  const handled: string[] = [];
  door = await listen({
    ...{ port: 0, host: "127.0.0.1", variable: "PORT", headersTimeout: 200 },
    handler: (request) => handled.push(request.url ?? ""),
  });
  const socket = connect(door.port, "127.0.0.1");
  socket.on("error", () => {}).resume();
  const closed = once(socket, "close");
  socket.write(bytes);
  // One byte at a time must not keep it alive
  const drip = setInterval(() => bytes.endsWith(": ") && socket.write("a"), 20);
  await closed;
  clearInterval(drip);
  expect(handled).toEqual([]);
});

test("a body that comes by the drop is cut after the time for a request, and its reader is told", async () => {
  let told = "";
  door = await listen({
    ...{ port: 0, host: "127.0.0.1", variable: "PORT", headersTimeout: 200, requestTimeout: 300 },
    handler: (request, response) => {
      readBody(request, response, 1_000).catch((error) => {
        told = error.code;
      });
    },
  });
  const socket = connect(door.port, "127.0.0.1");
  socket.on("error", () => {}).resume();
  const closed = once(socket, "close");
  socket.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{");
  const drip = setInterval(() => socket.write(" "), 20);
  await closed;
  clearInterval(drip);
  await vi.waitFor(() => expect(told).toBe("ECONNRESET"));
});
