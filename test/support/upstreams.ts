import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { UpstreamSpec } from "../../src/inference/upstream.js";

/** What an upstream was asked. */
export interface Visit {
  path: string;
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
  response: ServerResponse;
}

export type Behaviour = (visit: Visit) => unknown;

export type TestUpstream = Awaited<ReturnType<typeof startUpstream>>;

/** An upstream over real HTTP that does as it is told, and remembers what it was asked. */
export async function startUpstream(behaviour: Behaviour) {
  const visits: Visit[] = [];
  let behave = behaviour;
  const server = createServer(async (request, response) => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const body = JSON.parse(Buffer.concat(pieces).toString("utf8"));
    const visit = { path: request.url ?? "", headers: request.headers, body, response };
    visits.push(visit);
    behave(visit);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/v1`,
    visits,
    behave(other: Behaviour) {
      behave = other;
    },
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** A port that nobody listens on. */
export async function deadUrl(): Promise<string> {
  const upstream = await startUpstream(() => {});
  await upstream.close();
  return upstream.url;
}

/** How an upstream is configured where nothing special is said. */
export const specOf = (fields: Partial<UpstreamSpec> & { url: string }): UpstreamSpec => ({
  ...{ name: "test", key: "k", dialect: "openai", models: null, weight: 1, priority: 0 },
  ...{ maxConcurrent: Number.POSITIVE_INFINITY, timeouts: { headers: 1_000, idle: 1_000 } },
  accepts: undefined,
  ...fields,
});

/** Answers with a status and, as broken gateways do, as little as can be. */
export const says =
  (status: number, headers: Record<string, string | number> = {}): Behaviour =>
  ({ response }) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(JSON.stringify({ error: { message: "secret-host says no" } }));
  };

/** A chat completion as OpenAI's servers write it, in one piece or streamed. */
export const answers =
  (text = "hello"): Behaviour =>
  ({ body, response }) => {
    const usage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 };
    const head = { id: "up-1", created: 1, model: body.model };
    if (!body.stream) {
      const message = { role: "assistant", content: text };
      const choices = [{ index: 0, message, finish_reason: "stop" }];
      const answer = { ...head, object: "chat.completion", choices, usage };
      response.writeHead(200, { "content-type": "application/json" });
      return response.end(JSON.stringify(answer));
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    const write = (chunk: object) =>
      response.write(`data: ${JSON.stringify({ ...head, ...chunk })}\n\n`);
    const delta = { role: "assistant", content: text };
    write({ choices: [{ index: 0, delta, finish_reason: null }] });
    write({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    write({ choices: [], usage: { ...usage, prompt_tokens_details: null } });
    return response.end("data: [DONE]\n\n");
  };
