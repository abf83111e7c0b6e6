import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startTestGateway, type TestGateway } from "../support/gateway.js";

/** What the upstream calls itself, everywhere that it can. */
const NAME = "chattynet";
const ASKED = { model: "demo/fast", messages: [{ role: "user", content: "hi" }], max_tokens: 50 };

let gateway: TestGateway;
let secret: string;
let status = 200;
const upstream = createServer((request, response) => void answer(request, response));
beforeAll(async () => {
  upstream.listen(0, "127.0.0.1");
  await once(upstream, "listening");
  const { port } = upstream.address() as AddressInfo;
  gateway = await startTestGateway({ upstreamUrl: `http://127.0.0.1:${port}` });
  ({ secret } = await gateway.createChild());
});
afterAll(async () => {
  upstream.closeAllConnections();
  upstream.close();
  await gateway?.close();
});

/** An answer with its name in every field that there is, and in some that there are not. */
async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let body = "";
  for await (const piece of request) body += piece;
  const { stream } = JSON.parse(body);
  const head = {
    "x-request-id": NAME,
    server: NAME,
    "set-cookie": `${NAME}=1`,
    [`x-${NAME}`]: "1",
  };
  const noise = {
    ...{ id: NAME, model: NAME, system_fingerprint: NAME, provider: NAME, owned_by: NAME },
    ...{ service_tier: NAME, [NAME]: 1, metadata: { by: NAME }, warnings: [NAME] },
  };
  if (status !== 200) {
    const error = { message: NAME, type: NAME, code: NAME, param: NAME, metadata: { by: NAME } };
    response.writeHead(status, { ...head, "content-type": "application/json", "retry-after": "1" });
    return void response.end(JSON.stringify({ ...noise, error }));
  }
  const details = { cached_tokens: 0, by: NAME, [NAME]: { by: NAME } };
  const usage = {
    ...{ prompt_tokens: 1, completion_tokens: 2, total_tokens: 3, cost: NAME, by: NAME },
    ...{ prompt_tokens_details: details, completion_tokens_details: details },
  };
  if (request.url?.endsWith("/embeddings")) {
    const data = [{ object: NAME, index: 0, embedding: [1, 0], by: NAME }];
    return void response.writeHead(200, head).end(JSON.stringify({ ...noise, data, usage }));
  }
  const call = { id: "call_1", type: "function", function: { name: "f", arguments: "{}" } };
  const message = { role: "assistant", content: "hi", tool_calls: [call] };
  if (!stream) {
    const said = { ...message, provider: NAME, annotations: [{ by: NAME }], audio: { id: NAME } };
    const calls = [{ ...call, by: NAME, function: { ...call.function, by: NAME } }];
    const choice = {
      ...{ index: 0, message: { ...said, tool_calls: calls }, finish_reason: NAME },
      ...{ stop_reason: NAME, by: NAME, content_filter_results: { by: NAME } },
    };
    const whole = { ...noise, object: NAME, created: NAME, choices: [choice], usage };
    return void response.writeHead(200, head).end(JSON.stringify(whole));
  }
  response.writeHead(200, { ...head, "content-type": "text/event-stream" });
  response.write(`: ${NAME}\n\nevent: ${NAME}\nid: ${NAME}\n`);
  const chunk = (delta: object, finish_reason: string | null, more: object = {}) => {
    const added = { provider: NAME, [NAME]: 1, annotations: [{ by: NAME }] };
    const choice = { index: 0, delta: { ...delta, ...added }, finish_reason, ...added };
    const choices = [{ ...choice, stop_reason: NAME, content_filter_results: { by: NAME } }];
    const whole = { ...noise, object: NAME, created: 1, choices, ...more };
    response.write(`data: ${JSON.stringify(whole)}\n\n`);
  };
  chunk({ role: "assistant", content: "hi" }, null);
  chunk({ content: " there" }, null);
  chunk({}, "stop", { usage });
  response.end(`data: [DONE]\n\n: ${NAME}\n\n`);
}

/** Every inference door, and what is asked of it: a new door joins here. */
const DOORS: [path: string, body: object | undefined][] = [
  ["/v1/chat/completions", ASKED],
  ["/v1/chat/completions", { ...ASKED, stream: true, stream_options: { include_usage: true } }],
  ["/api/v1/chat/completions", ASKED],
  ["/api/v1/chat/completions", { ...ASKED, stream: true }],
  ["/v1/embeddings", { model: "demo/embedding", input: "hi" }],
  ["/v1/messages", ASKED],
  ["/v1/messages", { ...ASKED, stream: true }],
  ["/v1/messages/count_tokens", { model: ASKED.model, messages: ASKED.messages }],
  ["/keytoll.v1.InferenceService/CreateChatCompletion", ASKED],
  ["/v1/models", undefined],
  ["/v1/models/demo/fast", undefined],
  ["/api/v1/models", undefined],
  ["/v1/key", undefined],
];

async function seen(path: string, body: object | undefined): Promise<[number, string]> {
  const headers = { authorization: `Bearer ${secret}`, "content-type": "application/json" };
  const asked = body && { method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(gateway.url + path, { headers, ...asked });
  const text = [...answer.headers].join("\n") + (await answer.text());
  // Details of RPC errors travel in base64
  const inside = [...text.matchAll(/"value":"([^"]+)"/g)].map(([, value = ""]) =>
    Buffer.from(value, "base64").toString(),
  );
  return [answer.status, text + inside.join("\n")];
}

test.each(DOORS)(
  "%s of an upstream that names itself everywhere names nobody",
  async (path, body) => {
    status = 200;
    const [answered, text] = await seen(path, body);
    expect(answered).toBe(200);
    expect(text.toLowerCase()).not.toContain(NAME);
  },
);

test.each([400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 529])(
  "an upstream's %i is told in our own words at every door",
  async (refused) => {
    status = refused;
    for (const [path, body] of DOORS.filter(([, body]) => body !== undefined)) {
      const [answered, text] = await seen(path, body);
      if (!path.endsWith("count_tokens")) expect(answered).toBeGreaterThanOrEqual(400);
      expect(text.toLowerCase()).not.toContain(NAME);
    }
  },
);
