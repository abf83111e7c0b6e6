import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { now, pause, SECOND } from "../base/time.js";
import { embed } from "./demo-embeddings.js";
import { DEMO_MODELS } from "./demo-models.js";
import { type DemoRefusal, type DemoRequest, readDemoRequest } from "./demo-request.js";
import {
  deltaOf,
  finishOf,
  logprobsOf,
  messageOf,
  type Piece,
  usageOf,
  write,
} from "./demo-writing.js";

export interface DemoUpstream {
  /** Base URL with /v1. */
  url: string;
  close(): Promise<void>;
}

export interface DemoUpstreamOptions {
  /** 0 means a free one. */
  port: number;
  /** Bearer key that callers must have; none is asked for when absent. */
  key?: string;
}

/**
 * Serves the demo models over the wire format of OpenAI's chat completions and embeddings: what a
 * gateway meets in the world, tools, thoughts, errors, pauses and breaks included, without a network
 * or a bill.
 */
export async function startDemoUpstream({ port, key }: DemoUpstreamOptions): Promise<DemoUpstream> {
  let asked = 0;
  const isBusy = () => asked++ % 2 === 0;
  const server = createServer((request, response) => {
    answer(request, response, { key, isBusy }).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  const address = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${address.port}/v1`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

interface Demo {
  key: string | undefined;
  /** Whether a model that is busy at first is so now. */
  isBusy(): boolean;
}

async function answer(request: IncomingMessage, response: ServerResponse, demo: Demo) {
  const { key } = demo;
  response.setHeader("x-request-id", `demo-${randomBytes(8).toString("hex")}`);
  response.setHeader("server", "keytoll-demo-upstream");
  if (key !== undefined && request.headers.authorization !== `Bearer ${key}`) {
    const code = "invalid_api_key";
    return sendError(response, { status: 401, message: "incorrect API key", param: null, code });
  }
  const route = `${request.method} ${request.url?.split("?")[0]}`;
  if (route === "GET /v1/models") return sendModels(response);
  if (route === "POST /v1/embeddings") {
    const read = embed(await bodyOf(request));
    return "status" in read ? sendError(response, read) : send(response, 200, read);
  }
  if (route !== "POST /v1/chat/completions") {
    return sendError(response, { status: 404, message: "no such path", param: null, code: null });
  }
  const read = readDemoRequest(await bodyOf(request));
  if ("status" in read) return sendError(response, read);
  if (read.model.fault === "busy-at-first" && demo.isBusy()) return sendBusy(response, 1);
  await complete(read, response);
}

async function complete(request: DemoRequest, response: ServerResponse): Promise<void> {
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  switch (request.model.fault) {
    case "error-429":
      return sendBusy(response, 2);
    case "error-500":
      return sendError(response, fault(500, "the demo upstream has failed", "server_error"));
    case "error-400":
      return sendError(response, fault(400, "the demo upstream dislikes this", "bad_request"));
    case "hang":
      return;
  }
  const pieces = write(request);
  if (request.stream) await stream(request, pieces, response, gone.signal);
  else await unary(request, pieces, response, gone.signal);
}

async function unary(
  request: DemoRequest,
  pieces: Piece[],
  response: ServerResponse,
  gone: AbortSignal,
): Promise<void> {
  const { paceMs, fault } = request.model;
  if (paceMs > 0) await pause(pieces.length * paceMs, gone);
  if (fault === "cut") return void response.destroy();
  if (fault === "garbage") return void response.end('{"choices": [{"index": 0, "message": {"ro');
  const answer = () => ({
    message: messageOf(write(request)),
    logprobs: logprobsOf(request, pieces),
    finish_reason: finishOf(request, pieces),
  });
  send(response, 200, {
    ...head(request, "chat.completion"),
    choices: Array.from({ length: request.n }, (_, index) => ({ index, ...answer() })),
    ...reportsOf(request, pieces).at(-1),
  });
}

async function stream(
  request: DemoRequest,
  pieces: Piece[],
  response: ServerResponse,
  gone: AbortSignal,
): Promise<void> {
  const { paceMs, fault } = request.model;
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
  const common = head(request, "chat.completion.chunk");
  const event = (chunk: object) =>
    response.write(`data: ${JSON.stringify({ ...common, ...chunk })}\n\n`);
  const each = (delta: object, more: object = {}) => {
    for (const index of Array(request.n).keys()) {
      event({ choices: [{ index, delta, logprobs: null, finish_reason: null, ...more }] });
    }
  };
  each({ role: "assistant", content: "" });
  for (const [i, piece] of pieces.entries()) {
    if (paceMs > 0) await pause(paceMs, gone);
    if (gone.aborted) return;
    if (i === Math.floor(pieces.length / 2)) {
      if (fault === "cut") return void response.write("data: {", () => response.destroy());
      if (fault === "garbage") response.write("data: }{\n\n");
    }
    const delta = deltaOf(piece);
    if (delta !== undefined) each(delta, { logprobs: logprobsOf(request, [piece]) });
  }
  each({}, { finish_reason: finishOf(request, pieces) });
  if (request.includeUsage) {
    for (const report of reportsOf(request, pieces)) event({ choices: [], ...report });
  }
  response.end("data: [DONE]\n\n");
}

/** What it says of its usage, and how often: once, where the model has no fault in that. */
function reportsOf(request: DemoRequest, pieces: Piece[]): { usage: object }[] {
  const usage = usageOf(request, pieces);
  switch (request.model.fault) {
    case "no-usage":
      return [];
    case "zero-usage":
      return [{ usage: { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 } }];
    case "usage-twice":
      return [{ usage: usageOf(request, pieces.slice(pieces.length / 2)) }, { usage }];
    default:
      return [{ usage }];
  }
}

const head = (request: DemoRequest, object: string) => ({
  id: `chatcmpl-demo-${randomBytes(8).toString("hex")}`,
  object,
  created: Math.floor(now() / SECOND),
  model: request.model.id,
  system_fingerprint: "fp_keytoll_demo_upstream",
});

function sendModels(response: ServerResponse): void {
  const data = DEMO_MODELS.map(({ id }) => ({
    id,
    object: "model",
    created: 0,
    owned_by: "keytoll-demo",
  }));
  send(response, 200, { object: "list", data });
}

const fault = (status: number, message: string, code: string): DemoRefusal => ({
  status,
  message,
  param: null,
  code,
});

function sendBusy(response: ServerResponse, seconds: number): void {
  response.setHeader("retry-after", seconds);
  sendError(response, fault(429, "the demo upstream is too busy", "rate_limited"));
}

function sendError(response: ServerResponse, { status, message, param, code }: DemoRefusal): void {
  send(response, status, { error: { message, type: "demo_upstream_error", param, code } });
}

function send(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}
