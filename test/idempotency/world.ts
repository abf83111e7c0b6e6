import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { readConfig } from "../../src/base/config.js";
import { createLog } from "../../src/base/log.js";
import { connect } from "../../src/db/sql.js";
import { startGateway } from "../../src/server.js";
import { freshDatabase } from "../support/database.js";
import { environment, restClient } from "../support/live-gateway.js";

export const MODEL = "demo/fast";
/** For what a busy machine has to do first. */
export const PATIENCE = { timeout: 20_000, interval: 20 };
const USAGE = { prompt_tokens: 11, completion_tokens: 5, total_tokens: 16 };

export type Upstream = Awaited<ReturnType<typeof startUpstream>>;

/** An upstream that says another thing each time, and can be held back or made to fail. */
export async function startUpstream() {
  let asked = 0;
  let open = true;
  let says = (n: number) => `answer ${n}`;
  let status = 200;
  const held: (() => void)[] = [];
  const answer = (response: ServerResponse, streams: boolean) => {
    asked += 1;
    const content = says(asked);
    const body = streams ? streamOf(content) : completionOf(content);
    const send = () => {
      if (status !== 200) return response.writeHead(status).end("{}");
      if (streams) response.setHeader("content-type", "text/event-stream");
      return response.end(body);
    };
    if (open) send();
    else held.push(send);
  };
  const http = createServer(async (request, response) => {
    let body = "";
    for await (const bytes of request) body += String(bytes);
    answer(response, body.includes(`"stream":true`));
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/v1`,
    /** Requests that have come. */
    asked: () => asked,
    waiting: () => held.length,
    /** From now on answers wait. */
    hold() {
      open = false;
    },
    /** What waits is answered, and what comes at once. */
    release() {
      open = true;
      for (const send of held.splice(0)) send();
    },
    say(how: (n: number) => string) {
      says = how;
    },
    answerWith(code: number) {
      status = code;
    },
    close() {
      http.closeAllConnections();
      http.close();
    },
  };
}

function completionOf(content: string): string {
  const choices = [{ index: 0, finish_reason: "stop", message: { role: "assistant", content } }];
  return JSON.stringify({ id: "x", created: 1, choices, usage: USAGE });
}

function streamOf(content: string): string {
  const chunk = (fields: object) => `data: ${JSON.stringify({ id: "x", ...fields })}\n\n`;
  const said = chunk({ choices: [{ index: 0, delta: { content } }] });
  const last = chunk({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
  return `${said}${last}${chunk({ choices: [], usage: USAGE })}data: [DONE]\n\n`;
}

export type World = Awaited<ReturnType<typeof openWorld>>;

/** A database of its own with an owner, their key and a child, and gateways as they are wanted. */
export async function openWorld(more: Record<string, string> = {}) {
  const [database, upstream] = await Promise.all([freshDatabase(), startUpstream()]);
  const sql = connect(database.url, { name: "test", max: 4 });
  const gateways: { close(): Promise<void> }[] = [];
  /** Another gateway, which remembers nothing of what the others did. */
  async function start(env: Record<string, string> = {}) {
    const all = { ...environment(database.url, upstream.url), ...more, ...env };
    const gateway = await startGateway(readConfig(all), all, createLog("silent", "test"));
    gateways.push(gateway);
    return { ...gateway, ...restClient(gateway.http), ...asker(gateway.http) };
  }
  const gateway = await start();
  await gateway.priceDemoModels("15000001", "30000003");
  const owner = await gateway.anOwner("owner@example.com", "1000000000");
  const manager = await gateway.aManagementKey(owner.token);
  const child = await gateway.aChild(manager.secret, manager.id);
  return {
    ...{ sql, database, upstream, gateway, start, owner, manager, child },
    /** What the child was charged, and for how many requests. */
    async charged() {
      const [row] = await sql<{ cost: bigint; requests: number }[]>`
        select coalesce(sum(request_cost), 0)::bigint as cost, count(*)::int as requests
          from ended_hold where child_key_id = ${child.id} and usage_seq is not null`;
      return row ?? { cost: 0n, requests: 0 };
    },
    async close() {
      upstream.release();
      await Promise.all(gateways.map((each) => each.close()));
      upstream.close();
      await sql.end({ timeout: 5 });
      await database.drop();
    },
  };
}

export interface Given {
  status: number;
  text: string;
  replayed: string | null;
  headers: Headers;
}

/** Asks for chat completions at one gateway. */
export const asker = (base: string) => ({
  async ask(secret: string, key: string | undefined, body: object = {}): Promise<Given> {
    const messages = [{ role: "user", content: "hello" }];
    const answer = await fetch(`${base}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}`, ...(key && { "idempotency-key": key }) },
      body: JSON.stringify({ model: MODEL, messages, ...body }),
    });
    const [text, replayed] = [await answer.text(), answer.headers.get("idempotent-replayed")];
    return { status: answer.status, text, replayed, headers: answer.headers };
  },
});

/** What `usage.cost_units` says of an answer. */
export const costIn = (text: string): bigint =>
  BigInt(/"cost_units":"(\d+)"/.exec(text)?.[1] ?? -1);
