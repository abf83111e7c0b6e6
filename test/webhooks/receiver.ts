import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";

export interface Received {
  path: string;
  headers: Record<string, string>;
  /** As it came. */
  text: string;
  body: Payload;
}

export interface Payload {
  id: string;
  type: string;
  timestamp: string;
  sequence?: string;
  account_id: string;
  data: Record<string, unknown> & { key?: Record<string, unknown> };
}

/** Decides on the answer: a status, or the response to do anything with. */
export type Behave = (
  received: Received,
  response: ServerResponse,
) => number | undefined | Promise<number | undefined>;

export type Receiver = Awaited<ReturnType<typeof startReceiver>>;

/** A server that takes webhooks, on 127.0.0.1. */
export async function startReceiver(first: Behave = () => 204) {
  let behave = first;
  const received: Received[] = [];
  const server = createServer((request, response) => void serve(request, response));

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = "";
    for await (const part of request) text += part;
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    );
    const one = { path: request.url ?? "", headers, text, body: JSON.parse(text) as Payload };
    received.push(one);
    const status = await behave(one, response);
    if (status !== undefined) response.writeHead(status).end("thanks");
  }

  let port = 0;
  async function listen(): Promise<void> {
    server.listen(port, "127.0.0.1");
    await once(server, "listening");
    port = (server.address() as AddressInfo).port;
  }
  await listen();
  return {
    url: `http://127.0.0.1:${port}/hooks/t0ken`,
    received,
    behaves(next: Behave): void {
      behave = next;
    },
    ofType: (type: string) => received.filter((it) => it.body.type === type),
    listen,
    async stop(): Promise<void> {
      if (!server.listening) return;
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/** What the library of Standard Webhooks says of a request: its payload, or why not. */
export const verified = (secret: string, { text, headers }: Received) =>
  new Webhook(secret).verify(text, headers) as Payload;
