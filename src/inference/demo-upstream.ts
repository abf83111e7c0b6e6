import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { now, pause, SECOND } from "../base/time.js";
import { DEMO_MODELS, demoTokenCount, demoTokens } from "./demo-models.js";
import { type DemoRefusal, type DemoRequest, readDemoRequest } from "./demo-request.js";

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
 * Serves the demo models over the wire format of OpenAI's chat completions: what a gateway meets in
 * the world, errors, pauses and breaks included, without a network or a bill.
 */
export async function startDemoUpstream({ port, key }: DemoUpstreamOptions): Promise<DemoUpstream> {
  const server = createServer((request, response) => {
    answer(request, response, key).catch(() => response.destroy());
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

async function answer(request: IncomingMessage, response: ServerResponse, key?: string) {
  response.setHeader("x-request-id", `demo-${randomBytes(8).toString("hex")}`);
  response.setHeader("server", "keytoll-demo-upstream");
  if (key !== undefined && request.headers.authorization !== `Bearer ${key}`) {
    const code = "invalid_api_key";
    return sendError(response, { status: 401, message: "incorrect API key", param: null, code });
  }
  const route = `${request.method} ${request.url?.split("?")[0]}`;
  if (route === "GET /v1/models") return sendModels(response);
  if (route !== "POST /v1/chat/completions") {
    return sendError(response, { status: 404, message: "no such path", param: null, code: null });
  }
  const read = readDemoRequest(await bodyOf(request));
  if ("status" in read) return sendError(response, read);
  await complete(read, response);
}

async function complete(request: DemoRequest, response: ServerResponse): Promise<void> {
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  switch (request.model.fault) {
    case "error-429":
      response.setHeader("retry-after", 2);
      return sendError(response, fault(429, "the demo upstream is too busy", "rate_limited"));
    case "error-500":
      return sendError(response, fault(500, "the demo upstream has failed", "server_error"));
    case "error-400":
      return sendError(response, fault(400, "the demo upstream dislikes this", "bad_request"));
    case "hang":
      return;
  }
  const tokens = demoTokens(request.model, request.prompt, request.maxTokens);
  if (request.stream) await stream(request, tokens, response, gone.signal);
  else await unary(request, tokens, response, gone.signal);
}

async function unary(
  request: DemoRequest,
  tokens: string[],
  response: ServerResponse,
  gone: AbortSignal,
): Promise<void> {
  if (request.model.paceMs > 0) await pause(tokens.length * request.model.paceMs, gone);
  if (request.model.fault === "cut") return void response.destroy();
  const message = { role: "assistant", content: tokens.join(""), refusal: null };
  const finish_reason = finishOf(request, tokens);
  send(response, 200, {
    ...head(request, "chat.completion"),
    choices: choices(request, (index) => ({ index, message, logprobs: null, finish_reason })),
    ...(request.model.fault !== "no-usage" && { usage: usageOf(request, tokens) }),
  });
}

async function stream(
  request: DemoRequest,
  tokens: string[],
  response: ServerResponse,
  gone: AbortSignal,
): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
  const common = head(request, "chat.completion.chunk");
  const write = (chunk: object) =>
    response.write(`data: ${JSON.stringify({ ...common, ...chunk })}\n\n`);
  const each = (delta: object, finish_reason: string | null) => {
    for (const index of Array(request.n).keys()) {
      write({ choices: [{ index, delta, logprobs: null, finish_reason }] });
    }
  };
  each({ role: "assistant", content: "" }, null);
  for (const [i, content] of tokens.entries()) {
    if (request.model.paceMs > 0) await pause(request.model.paceMs, gone);
    if (gone.aborted) return;
    if (request.model.fault === "cut" && i === Math.floor(tokens.length / 2)) {
      return void response.write("data: {", () => response.destroy());
    }
    each({ content }, null);
  }
  each({}, finishOf(request, tokens));
  if (request.includeUsage && request.model.fault !== "no-usage") {
    write({ choices: [], usage: usageOf(request, tokens) });
  }
  response.end("data: [DONE]\n\n");
}

const choices = <T>(request: DemoRequest, make: (index: number) => T): T[] =>
  Array.from({ length: request.n }, (_, index) => make(index));

const finishOf = (request: DemoRequest, tokens: string[]) =>
  tokens.length >= request.maxTokens ? "length" : "stop";

const head = (request: DemoRequest, object: string) => ({
  id: `chatcmpl-demo-${randomBytes(8).toString("hex")}`,
  object,
  created: Math.floor(now() / SECOND),
  model: request.model.id,
  system_fingerprint: "fp_keytoll_demo_upstream",
});

function usageOf(request: DemoRequest, tokens: string[]) {
  const prompt_tokens = demoTokenCount(request.prompt);
  const completion_tokens = tokens.length * request.n;
  const total_tokens = prompt_tokens + completion_tokens;
  return { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details: null };
}

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
