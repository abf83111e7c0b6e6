import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { startTestGateway, type TestGateway } from "../support/gateway.js";

const MIB = 1024 * 1024;
const ANSWER = {
  ...{ id: "x", object: "chat.completion", created: 1, model: "demo/fast" },
  choices: [{ index: 0, finish_reason: "stop", message: { role: "assistant", content: "hi" } }],
  usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
};

let gateway: TestGateway;
let secret: string;
/** Bodies as the upstream got them. */
const got: string[] = [];
const upstream = createServer(async (request, response) => {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  got.push(Buffer.concat(pieces).toString("utf8"));
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(ANSWER));
});

beforeAll(async () => {
  upstream.listen(0, "127.0.0.1");
  await once(upstream, "listening");
  const { port } = upstream.address() as AddressInfo;
  gateway = await startTestGateway({ upstreamUrl: `http://127.0.0.1:${port}/v1` });
  ({ secret } = await gateway.createChild());
});
afterAll(async () => {
  await gateway?.close();
  upstream.close();
});
beforeEach(() => {
  got.length = 0;
});

const post = (path: string, body: string | ReadableStream, bearer = secret) =>
  fetch(gateway.url + path, {
    ...{ method: "POST", body, duplex: "half" },
    headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" },
  } as RequestInit);

/** The same bytes, in pieces of 1 MiB and without a length. */
const inChunks = (mebibytes: number) =>
  new ReadableStream({
    start(to) {
      for (let i = 0; i < mebibytes; i++) to.enqueue(Buffer.alloc(MIB, " "));
      to.close();
    },
  });

test.each([
  ["/v1/chat/completions", 11],
  ["/v1/embeddings", 11],
  ["/v1/messages", 11],
  ["/api/v1/chat/completions", 11],
  ["/api/management/keys", 2],
])(
  "a body that is too long gets 413 at %s, declared or in chunks without a length",
  async (path, size) => {
    for (const body of [" ".repeat(size * MIB), inChunks(size)]) {
      // Who is cut while it still sends may lose the answer, as with any server
      const answer = await post(path, body).catch((error: TypeError) => error.cause as Error);
      if (answer instanceof Response) {
        expect(answer.status).toBe(413);
        expect(await answer.text()).toContain("request_too_large");
      } else
        expect(answer).toMatchObject({ code: expect.stringMatching(/ECONNRESET|EPIPE|SOCKET/) });
    }
    expect(got).toEqual([]);
  },
);

test("an object with a million fields is refused before it is parsed; as many colons in a text are a text", async () => {
  const fields = Array.from({ length: 1e6 }, (_, i) => `"${i.toString(36)}":1`).join(",");
  const body = `{${fields}}`;
  expect(body.length).toBeLessThan(10 * MIB);
  for (const path of ["/v1/chat/completions", "/v1/messages", "/v1/embeddings"]) {
    const answer = await post(path, body);
    expect(answer.status).toBe(400);
    expect(await answer.text()).toContain("more than 100000 fields");
  }
  expect(got).toEqual([]);
  const content = '\\":{":'.repeat(200_000);
  const long = { model: "demo/fast", max_tokens: 1, messages: [{ role: "user", content }] };
  const answer = await post("/v1/chat/completions", JSON.stringify(long));
  expect(await answer.text()).not.toContain("fields");
});

test("of a field that comes twice the last one counts, for us as for the upstream, which gets it once", async () => {
  const twice = `{"model":"demo/none","max_tokens":1,"messages":[],"n":4,"model":"demo/fast",
    "max_tokens":7,"messages":[{"role":"user","content":"hi"}],"n":1,"stream":true,"stream":false}`;
  const answer = await post("/v1/chat/completions", twice);
  expect(answer.status).toBe(200);
  const [body = ""] = got;
  for (const name of ["model", "max_tokens", "messages", "n", "stream"]) {
    expect(body.split(`"${name}":`).length, `${name} in ${body}`).toBeLessThanOrEqual(2);
  }
  expect(JSON.parse(body)).toMatchObject({
    ...{ model: "demo/fast", max_tokens: 7, messages: [{ role: "user", content: "hi" }] },
  });
});

test("max_tokens 1 before max_tokens 8,192 is held as 8,192", async () => {
  const heldFor = async (head: string) => {
    const child = await gateway.createChild();
    const body = `{${head}"model":"demo/fast","messages":[{"role":"user","content":"hi"}]}`;
    expect((await post("/v1/chat/completions", body, child.secret)).status).toBe(200);
    const [row] = await gateway.sql`select amount from ended_hold where child_key_id = ${child.id}`;
    return BigInt(row?.amount);
  };
  const last = await heldFor('"max_tokens":   8,"max_tokens":8192,');
  const same = await heldFor('"max_tokens":8192,"max_tokens":8192,');
  const less = await heldFor('"max_tokens":8192,"max_tokens":   8,');
  expect(last).toBe(same);
  expect(less).toBeLessThan(last);
});
