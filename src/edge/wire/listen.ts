import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import {
  createServer as createHttp2Server,
  type Http2ServerRequest,
  type ServerHttp2Session,
} from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { SECOND } from "../../base/time.js";

type Listener = (request: IncomingMessage, response: ServerResponse) => void;

export interface HttpDoor {
  /** Port to listen on; 0 means a free one. */
  port: number;
  host: string;
  /** Name of the variable that sets the port, for the error when it is taken. */
  variable: string;
  handler: Listener;
  /** Milliseconds that a client may take for its headers, or to say anything at all. */
  headersTimeout?: number;
  /** Milliseconds for a request whole, its body included; tests take fewer. */
  requestTimeout?: number;
  /** Milliseconds that a connection may be idle; tests take fewer. */
  keepAlive?: number;
}

const HEADERS_TIMEOUT = 15 * SECOND;
/** For the whole request, body included: 10 MiB over a slow line. */
const REQUEST_TIMEOUT = 120 * SECOND;
/**
 * Longer than the 60 s after which usual load balancers drop an idle connection, so that they are
 * the ones to.
 */
const KEEP_ALIVE = 75 * SECOND;
/** The last bytes of a session that has ended may take this long to leave. */
const PARTING = SECOND;
/** Calls that one HTTP/2 connection may have open, gRPC's too: its client lets further ones wait. */
export const MAX_STREAMS = 1_000;
const MAX_INVALID_FRAMES = 100;
const HTTP2_PREFACE = Buffer.from("PRI * HTTP/2.0\r\n");

/**
 * Listens on one port for HTTP/1.1 and HTTP/2 without TLS (gRPC), told apart by the first bytes of
 * a connection.
 *
 * @returns the port in use, and `close`: accepts nothing more, ends idle connections, lets running
 *   requests end for up to `graceMs` and then cuts them
 * @throws Error that names the port and its variable where it is taken
 */
export async function listen(door: HttpDoor) {
  const { headersTimeout = HEADERS_TIMEOUT, keepAlive = KEEP_ALIVE } = door;
  const http1 = createServer({
    headersTimeout,
    requestTimeout: Math.max(door.requestTimeout ?? REQUEST_TIMEOUT, headersTimeout),
    keepAliveTimeout: keepAlive,
    connectionsCheckingInterval: Math.min(headersTimeout, 5 * SECOND),
    // A peer that went without a word in mid-stream would otherwise stay connected for good
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE,
  });
  // The compatibility objects of HTTP/2 have the methods that our handlers use.
  const limits = {
    settings: { maxConcurrentStreams: MAX_STREAMS },
    maxSessionInvalidFrames: MAX_INVALID_FRAMES,
  };
  const http2 = createHttp2Server(limits, (request, response) => {
    const answered = () => setImmediate(dropRest, request);
    request.stream.once("finish", answered).once("wantTrailers", answered);
    // Whoever waits until its reader has read would wait for good: these objects tell no writer
    // that its stream has closed. Its next write fails
    request.stream.once("close", () => response.emit("drain"));
    door.handler(request as unknown as IncomingMessage, response as unknown as ServerResponse);
  });
  const connections = followHttp2(http2, keepAlive);
  http1.on("request", door.handler);

  const undecided = sniffConnections(http1, http2, headersTimeout);
  await bind(http1, door);
  const { port } = http1.address() as AddressInfo;
  return { port, close: (graceMs: number) => close(http1, connections, undecided, graceMs) };
}

type Http1 = ReturnType<typeof createServer>;
type Http2 = ReturnType<typeof createHttp2Server>;

/**
 * Drops what is unread of a request that is answered. A stream with unread bytes never ends, and a
 * session that waits for it doesn't notice that its connection did. Once our last byte is out,
 * trailers included, the client is told to send no more.
 */
function dropRest(request: Http2ServerRequest): void {
  const { stream } = request;
  if (!request.complete && !stream.closed && stream.state.localClose === 1) stream.close();
  request.resume();
}

/**
 * What is open over HTTP/2: a session may be gone before its socket is, and only the socket can be
 * cut.
 */
type Http2Connections = Map<ServerHttp2Session, Socket>;

function followHttp2(http2: Http2, keepAlive: number): Http2Connections {
  const connections: Http2Connections = new Map();
  http2.prependListener("connection", (socket: Socket) => {
    // HTTP/1's server lets a client end its side and read on; in HTTP/2 that would go unnoticed.
    socket.allowHalfOpen = false;
    // The server makes the session before it returns.
    http2.once("session", (session) => {
      connections.set(session, socket);
      socket.on("close", () => connections.delete(session));
      session.setTimeout(keepAlive, () => session.close());
      // Its client may have been told to go, and yet stay: nobody would read it, nor cut it
      session.once("close", () => setTimeout(() => socket.destroy(), PARTING).unref());
    });
  });
  return connections;
}

/**
 * Puts the sniffer before the listener of the server that really listens: one in front of a server
 * that does not would leave it without its header and request timeouts.
 */
function sniffConnections(http1: Http1, http2: Http2, timeout: number): Set<Socket> {
  const undecided = new Set<Socket>();
  const serveHttp1 = http1.listeners("connection");
  http1.removeAllListeners("connection");
  http1.on("connection", (socket: Socket) => {
    let head = Buffer.alloc(0);
    const giveUp = () => socket.destroy();
    const silence = setTimeout(giveUp, timeout);
    const forget = () => {
      clearTimeout(silence);
      undecided.delete(socket);
    };
    const sniff = () => {
      const bytes: Buffer | null = socket.read();
      if (bytes === null) return;
      head = Buffer.concat([head, bytes]);
      const known = Math.min(head.length, HTTP2_PREFACE.length);
      const mayBeHttp2 = head.subarray(0, known).equals(HTTP2_PREFACE.subarray(0, known));
      if (mayBeHttp2 && known < HTTP2_PREFACE.length) return;

      socket.off("readable", sniff).off("end", giveUp).off("error", giveUp).off("close", forget);
      forget();
      socket.unshift(head);
      if (mayBeHttp2) http2.emit("connection", socket);
      else for (const serve of serveHttp1) serve.call(http1, socket);
    };
    undecided.add(socket);
    socket.on("readable", sniff).on("end", giveUp).on("error", giveUp).on("close", forget);
  });
  return undecided;
}

function bind(server: Http1, { port, host, variable }: HttpDoor): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EADDRINUSE") reject(error);
      else reject(new Error(`port ${port} is taken: set ${variable} to another one, or to 0`));
    });
    server.listen(port, host, resolve);
  });
}

async function close(
  server: Http1,
  connections: Http2Connections,
  undecided: Set<Socket>,
  graceMs: number,
): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  for (const socket of undecided) socket.destroy();
  for (const session of connections.keys()) session.close();
  // A connection whose request ends while we wait must not stay for its keep-alive time.
  server.on("request", (_request, response) => response.setHeader("connection", "close"));
  const idle = setInterval(() => {
    server.closeIdleConnections();
    for (const [session, socket] of connections) {
      if (session.destroyed && socket.writableFinished) socket.destroy();
    }
  }, 50);
  const cut = setTimeout(() => {
    server.closeAllConnections();
    for (const socket of connections.values()) socket.destroy();
  }, graceMs);
  await closed;
  clearInterval(idle);
  clearTimeout(cut);
}
