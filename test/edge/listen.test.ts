import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { type ClientHttp2Session, connect, constants } from "node:http2";
import { connect as connectSocket, type Socket } from "node:net";
import { afterEach, describe, expect, test, vi } from "vitest";
import { readBody, sendError } from "../../src/edge/wire/answer.js";
import { listen } from "../../src/edge/wire/listen.js";
import { log } from "./wire-table.js";

type Door = Awaited<ReturnType<typeof listen>>;

const LIMIT = 1_000;
/** More than HTTP/2 lets a client send before the other side has read some. */
const MORE_THAN_A_WINDOW = "x".repeat(200_000);
/** Far longer than a test may take: a close that waits for it fails. */
const GRACE = 60_000;

let door: Door;
afterEach(() => door.close(0));

async function open(handler: (request: IncomingMessage, response: ServerResponse) => void) {
  door = await listen({ port: 0, host: "127.0.0.1", variable: "PORT", handler });
}

const refuseLong = (request: IncomingMessage, response: ServerResponse) => {
  readBody(request, response, LIMIT).then(
    () => response.end(),
    (error) => sendError(response, error, "id", log),
  );
};

/** A client's session, and its socket: the session's own cannot be cut. */
async function aClient(): Promise<{ session: ClientHttp2Session; socket: Socket }> {
  const socket = connectSocket(door.port, "127.0.0.1");
  const session = connect(`http://127.0.0.1:${door.port}`, { createConnection: () => socket });
  session.on("error", () => {});
  await once(session, "connect");
  return { session, socket };
}

function post(session: ClientHttp2Session, body: string) {
  const request = session.request({ ":method": "POST" });
  request.on("error", () => {});
  request.end(body);
  return request;
}

describe("over HTTP/2 without TLS", () => {
  test("a body that is too long is refused, and its client need send no more of it", async () => {
    await open(refuseLong);
    const { session } = await aClient();
    const request = post(session, MORE_THAN_A_WINDOW);
    const [headers] = await once(request, "response");
    expect(headers[":status"]).toBe(413);
    await vi.waitFor(() => expect(request.closed).toBe(true));
    expect(request.rstCode).toBe(constants.NGHTTP2_NO_ERROR);

    const next = post(session, "short");
    expect((await once(next, "response"))[0][":status"]).toBe(200);
    session.destroy();
  });

  test.each([
    ["ends its session", ({ session }: { session: ClientHttp2Session }) => session.destroy()],
    ["drops its connection", ({ socket }: { socket: Socket }) => socket.destroy()],
    ["neither reads its answer nor leaves", () => {}],
  ])("a client that was refused early and then %s holds up no close", async (_what, leave) => {
    await open(refuseLong);
    const client = await aClient();
    const request = post(client.session, MORE_THAN_A_WINDOW);
    await once(request, "response");
    leave(client);
    await door.close(GRACE);
  });

  test("a running request learns that its client's connection has ended", async () => {
    const seen = vi.fn();
    await open((_request, response) => {
      seen("arrived");
      response.on("close", () => seen("closed"));
    });
    const { session, socket } = await aClient();
    post(session, "short");
    await vi.waitFor(() => expect(seen).toHaveBeenCalledWith("arrived"));
    socket.end();
    await vi.waitFor(() => expect(seen).toHaveBeenCalledWith("closed"));
  });

  test("a running request holds up a close no longer than the grace", async () => {
    const seen = vi.fn();
    await open(() => seen("arrived"));
    const { session } = await aClient();
    post(session, "short");
    await vi.waitFor(() => expect(seen).toHaveBeenCalledWith("arrived"));
    await door.close(100);
  });
});
