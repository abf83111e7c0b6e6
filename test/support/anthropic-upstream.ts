import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { pause } from "../../src/base/time.js";

/** A word in all that names this upstream. */
export const MARK = "marked-7f3a";

type Json = Record<string, unknown>;

export interface AnthropicUpstream {
  /** Base URL with /v1. */
  url: string;
  /** Bodies and headers of what was asked. */
  asked: { body: Json; headers: IncomingMessage["headers"] }[];
  close(): Promise<void>;
}

/** Input in part from a cache: 5 + 7 + 11 tokens. */
const INPUT = {
  input_tokens: 5,
  cache_creation_input_tokens: 7,
  cache_read_input_tokens: 11,
};
const OUTPUT = 9;

/**
 * Answers messages over Anthropic's wire format. The model decides: `cut` breaks off, `late`
 * reports all usage at the end once more, `no-usage` none at the end, `slow` pauses between
 * events, `overloaded` is; the others say what they have to say.
 *
 * @param key that callers must show
 */
export async function startAnthropicUpstream(key: string): Promise<AnthropicUpstream> {
  const asked: AnthropicUpstream["asked"] = [];
  const server = createServer((request, response) => {
    void bodyOf(request).then(async (body) => {
      asked.push({ body, headers: request.headers });
      response.setHeader("request-id", MARK).setHeader("anthropic-organization-id", MARK);
      if (request.headers["x-api-key"] !== key) return fail(response, 401, "authentication_error");
      if (request.url !== "/v1/messages") return fail(response, 404, "not_found_error");
      if (body.model === "overloaded") return fail(response, 529, "overloaded_error");
      if (body.stream === true) return await stream(body, response);
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify(messageOf(body)));
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/v1`,
    asked,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function contentOf({ tools }: Json): Json[] {
  const text = 'no report: {"usage":{"input_tokens":1,"output_tokens":1}}';
  const said = [
    { type: "thinking", thinking: "hm", signature: "c2lnbmVk" },
    { type: "text", text, citations: null },
  ];
  const call = { type: "tool_use", id: `toolu_${MARK}`, name: "weather", input: { city: "Oslo" } };
  return tools === undefined ? said : [...said, call];
}

const messageOf = (body: Json): Json => ({
  ...{ id: `msg_${MARK}`, type: "message", role: "assistant", model: MARK, container: MARK },
  content: contentOf(body),
  stop_reason: body.tools === undefined ? "end_turn" : "tool_use",
  stop_sequence: null,
  ...(body.model !== "no-usage" && {
    usage: { ...INPUT, output_tokens: OUTPUT, service_tier: MARK, inference_geo: MARK },
  }),
});

async function stream(body: Json, response: ServerResponse): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream" });
  const send = async (event: Json) => {
    if (body.model === "slow") await pause(30);
    response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  };
  const { content, usage, ...message } = messageOf(body);
  const early = { ...INPUT, output_tokens: 1 };
  const head = { ...message, content: [], stop_reason: null, usage: early };
  await send({ type: "message_start", message: head });
  await send({ type: "ping" });
  for (const [index, block] of (content as Json[]).entries()) {
    if (body.model === "cut" && index === 1)
      return void response.write(": ", () => response.destroy());
    await send({ type: "content_block_start", index, content_block: emptied(block) });
    for (const delta of deltasOf(block)) await send({ type: "content_block_delta", index, delta });
    await send({ type: "content_block_stop", index });
  }
  const total = body.model === "late" ? usage : { output_tokens: OUTPUT };
  await send({
    type: "message_delta",
    delta: { stop_reason: message.stop_reason, stop_sequence: null, container: MARK },
    ...(body.model !== "no-usage" && { usage: total }),
  });
  await send({ type: "message_stop" });
  response.end();
}

const emptied = (block: Json): Json => ({
  ...block,
  ...("text" in block && { text: "" }),
  ...("thinking" in block && { thinking: "", signature: "" }),
  ...("input" in block && { input: {} }),
});

function deltasOf({ text, thinking, signature, input }: Json): Json[] {
  if (input !== undefined) {
    const pieces = JSON.stringify(input).match(/.{1,5}/g) ?? [];
    return pieces.map((partial_json) => ({ type: "input_json_delta", partial_json }));
  }
  if (thinking === undefined) return [{ type: "text_delta", text }];
  return [
    { type: "thinking_delta", thinking },
    { type: "signature_delta", signature },
  ];
}

function fail(response: ServerResponse, status: number, type: string): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify({ type: "error", error: { type, message: MARK } }));
}

async function bodyOf(request: IncomingMessage): Promise<Json> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  return JSON.parse(Buffer.concat(pieces).toString("utf8") || "{}") as Json;
}
