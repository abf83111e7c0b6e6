import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect as dial } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { AccountService } from "../../src/gen/keytoll/v1/account_pb.js";
import { AdminService } from "../../src/gen/keytoll/v1/admin_pb.js";
import { AuthService } from "../../src/gen/keytoll/v1/auth_pb.js";
import { HoldService } from "../../src/gen/keytoll/v1/hold_pb.js";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";
import { KeyService } from "../../src/gen/keytoll/v1/key_pb.js";
import { ModelService } from "../../src/gen/keytoll/v1/model_pb.js";
import { UsageService } from "../../src/gen/keytoll/v1/usage_pb.js";
import { WebhookService } from "../../src/gen/keytoll/v1/webhook_pb.js";
import { startTestGateway, type TestGateway } from "../support/gateway.js";

const SERVICES = [
  AccountService,
  AdminService,
  AuthService,
  HoldService,
  InferenceService,
  KeyService,
  ModelService,
  UsageService,
  WebhookService,
];

/** What the upstream was asked, and in the prompt by which way it came. */
const asked: { path: string; way: string }[] = [];
const upstream = createServer(async (request, response) => {
  const { messages } = JSON.parse((await text(request)) || "{}");
  asked.push({ path: `${request.method} ${request.url}`, way: messages?.[0]?.content });
  response.end(JSON.stringify({ id: "x", choices: [{ index: 0, message: { content: "paid" } }] }));
});
let gateway: TestGateway;
let rich: { id: string; secret: string };
let poor: { id: string; secret: string };

beforeAll(async () => {
  upstream.listen(0, "127.0.0.1");
  await once(upstream, "listening");
  const { port } = upstream.address() as AddressInfo;
  gateway = await startTestGateway({ upstreamUrl: `http://127.0.0.1:${port}` });
  rich = await gateway.createChild();
  poor = await gateway.createChild({ limitTotal: 1n });
});
afterAll(async () => {
  upstream.closeAllConnections();
  upstream.close();
  await gateway?.close();
});

/** Everything under which some API or gateway answers for money. */
const OPENAI = [
  ...["chat/completions", "completions", "embeddings", "responses", "moderations", "edits"],
  ...["images/generations", "images/edits", "audio/speech", "audio/transcriptions", "videos"],
  ...["files", "uploads", "batches", "fine_tuning/jobs", "assistants", "threads/runs", "evals"],
  ...["vector_stores", "realtime/sessions", "realtime", "containers", "rerank", "score", "ocr"],
];
const OTHERS = [
  ...[
    "/v1/messages",
    "/api/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/messages/batches",
    "/v1/complete",
  ],
  ...["/v1beta/models/demo:generateContent", "/v1/models/demo/fast", "/v1/projects/x"],
  ...["/model/demo/invoke", "/model/demo/converse", "/openai/deployments/demo/chat/completions"],
  ...["/passthrough", "/pass-through/v1/chat/completions", "/proxy/v1/chat/completions"],
  ...["/engines/demo/completions", "/engines/demo/chat/completions", "/api/chat", "/api/generate"],
  ...["/generate", "/generate_stream", "/tokenize", "/metrics/v1", "/health", "/docs", "/sdapi"],
];
const PREFIXES = [
  ...["/v1", "/api/v1", "/openai/v1", "/openai", "/azure", "/anthropic", "/bedrock", "/vertex_ai"],
  ...["/gemini", "", "//v1", "/v1/", "/v1/v1", "/V1", "/v1/../v1", "/%76%31", "/api//v1", "/v2"],
];
const PATHS = [...PREFIXES.flatMap((each) => OPENAI.map((path) => `${each}/${path}`)), ...OTHERS];

/** One request as it stands, so that no client tidies its path. @returns the status */
async function ask(target: string, secret: string, verb = "POST"): Promise<number> {
  const { hostname, port } = new URL(gateway.url);
  const messages = [{ role: "user", content: target }];
  const body = JSON.stringify({ model: "demo/fast", messages, max_tokens: 16 });
  const socket = dial(Number(port), hostname);
  socket.write(
    [
      `${verb} ${target} HTTP/1.1`,
      ...[`host: ${hostname}:${port}`, "connection: close", "content-type: application/json"],
      ...[
        `authorization: Bearer ${secret}`,
        `content-length: ${Buffer.byteLength(body)}`,
        "",
        body,
      ],
    ].join("\r\n"),
  );
  return Number(/^HTTP\/1\.1 (\d{3})/.exec(await text(socket))?.[1] ?? 0);
}

const methods = SERVICES.flatMap((service) =>
  service.methods.map((method) => `/${service.typeName}/${method.name}`),
);

const AT_ONCE = 50;

/** The targets whose request reaches the upstream. */
async function reaching(targets: string[], secret: string, verb?: string): Promise<string[]> {
  const before = asked.length;
  for (let first = 0; first < targets.length; first += AT_ONCE) {
    const some = targets.slice(first, first + AT_ONCE);
    await Promise.all(some.map((target) => ask(target, secret, verb)));
  }
  const ways = new Set(asked.slice(before).map(({ way }) => way));
  expect(ways.size).toBe(asked.length - before);
  return targets.filter((target) => ways.delete(target)).concat([...ways]);
}

// Bifrost #2873: routes that pass a request through without asking for its budget
test("the ways to the upstream are those that are known, and each of them needs a hold", async () => {
  const targets = [...PATHS, ...methods];
  const known = [
    ...["/v1/chat/completions", "/api/v1/chat/completions", "/v1/messages", "/api/v1/messages"],
    "/keytoll.v1.InferenceService/CreateChatCompletion",
  ];
  expect(await reaching(targets, rich.secret)).toEqual(known);
  const refused = await Promise.all(known.map((target) => ask(target, poor.secret)));
  // Connect has its own mapping of RESOURCE_EXHAUSTED
  expect(refused).toEqual([402, 402, 402, 402, 429]);
  expect(await reaching(targets, poor.secret)).toEqual([]);
  expect(new Set(asked.map(({ path }) => path))).toEqual(new Set(["POST /v1/chat/completions"]));
  const [row] = await gateway.sql`
    select count(*)::int as paid from usage_record where child_key_id = ${rich.id}`;
  expect(row?.paid).toBe(asked.length);
}, 60_000);

test("neither another verb nor an absolute address is a way around", async () => {
  const { port } = upstream.address() as AddressInfo;
  const { host } = new URL(gateway.url);
  const targets = [
    ...["/v1/chat/completions", `http://127.0.0.1:${port}/v1/chat/completions`],
    ...[`http://${host}/v1/chat/completions`, `127.0.0.1:${port}`],
  ];
  for (const verb of ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "CONNECT"]) {
    expect(await reaching(targets, rich.secret, verb), verb).toEqual([]);
  }
  for (const target of targets.slice(1)) {
    expect(await reaching([target], poor.secret), target).toEqual([]);
  }
});
