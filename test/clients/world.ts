import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  request as openRequest,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { vi } from "vitest";
import { newSecret } from "../../src/keys/secret.js";
import { expectBooksAreRight } from "../support/books.js";
import { startTestGateway, type TestGateway } from "../support/gateway.js";

/** A request as it passed by on its way to the gateway. */
export interface Seen {
  /** "POST /v1/chat/completions", without the query. */
  route: string;
  /** The key that it shows, whichever way. */
  key: string;
  /** 0 while there is no answer, and where its caller hung up before. */
  status: number;
  /** What the answer says in `x-should-retry`. */
  shouldRetry: string | undefined;
}

/**
 * A proxy in front of a gateway that counts what clients really ask. It changes nothing, unless it
 * is told to give every request an idempotency key.
 */
export interface CountingProxy {
  url: string;
  seen: Seen[];
  /** Statuses of one route so far, oldest first. */
  statuses(route: string, key?: string): number[];
  forget(): void;
  /** The idempotency key that requests get from now on; undefined: none. */
  giveKey(key: string | undefined): void;
  close(): Promise<void>;
}

export type ClientWorld = Awaited<ReturnType<typeof startClientWorld>>;

/**
 * What a client that nobody here wrote is tried against: a gateway with priced demo models behind a
 * counting proxy, and a secret for each situation.
 */
export async function startClientWorld() {
  const gateway = await startTestGateway();
  const proxy = await startCountingProxy(gateway.url);
  const pauper = await gateway.createOwner("pauper@example.com", 1_000n);
  const good = await gateway.createChild();
  return {
    gateway,
    proxy,
    url: proxy.url,
    /** May do all. */
    good,
    secrets: {
      good: good.secret,
      /** Well-formed, and nobody's. */
      unknown: newSecret("child"),
      /** Its daily limit is 0: a 402 that waiting does not change. */
      spent: (await gateway.createChild({ limitDaily: 0n })).secret,
      /** One request a minute: the second is a 429. */
      hurried: (await gateway.createChild({ rateLimitRpm: 1 })).secret,
      /** A management key: it may not infer. */
      manager: gateway.managementSecret,
      /** Its owner has next to nothing: another 402. */
      poor: (await pauper.createChild()).secret,
    },
    /** Waits for all holds to end; then every invariant holds. */
    expectBooks: () => expectBooks(gateway),
    async close() {
      await proxy.close();
      await gateway.close();
    },
  };
}

async function expectBooks({ sql }: TestGateway): Promise<void> {
  await vi.waitFor(
    async () => {
      const open = await sql`select account_id from open_hold limit 1`;
      if (open.length > 0) throw new Error("a hold is still open");
    },
    { timeout: 10_000, interval: 50 },
  );
  await expectBooksAreRight(sql);
}

/** @param target base URL of a gateway */
export async function startCountingProxy(target: string): Promise<CountingProxy> {
  const seen: Seen[] = [];
  let given: string | undefined;
  const server = createServer((request, response) => {
    const route = `${request.method} ${request.url?.split("?")[0]}`;
    const { authorization, "x-api-key": bare } = request.headers;
    const key = String(bare ?? authorization?.replace(/^Bearer /, ""));
    const one: Seen = { route, key, status: 0, shouldRetry: undefined };
    seen.push(one);
    if (given !== undefined) request.headers["idempotency-key"] = given;
    pass(target, request, response, ({ statusCode = 0, headers }) => {
      one.status = statusCode;
      one.shouldRetry = headers["x-should-retry"]?.toString();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    seen,
    statuses: (route, key) =>
      seen
        .filter((it) => it.route === route && (key === undefined || it.key === key))
        .map(({ status }) => status),
    forget: () => void seen.splice(0),
    giveKey(key) {
      given = key;
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/**
 * Passes a request on as it is once it is whole, and a hang-up of either side to the other. Sent in
 * pieces, one that is refused half-way may fail before its answer is read.
 */
function pass(
  target: string,
  request: IncomingMessage,
  response: ServerResponse,
  answered: (answer: IncomingMessage) => void,
): void {
  const { method, url, headers } = request;
  const there = openRequest(new URL(url ?? "/", target), { method, headers }, (answer) => {
    answered(answer);
    response.writeHead(answer.statusCode ?? 0, answer.statusMessage, answer.rawHeaders);
    answer.pipe(response);
    answer.on("aborted", () => response.destroy());
  });
  there.on("error", () => response.headersSent || response.destroy());
  response.on("close", () => {
    if (!response.writableFinished) there.destroy();
  });
  const body: Buffer[] = [];
  request.on("data", (piece: Buffer) => body.push(piece));
  request.on("end", () => there.end(Buffer.concat(body)));
}

/** Prints what a client was seen to do, a cell for each behaviour, once its tests have run. */
export function printRow(client: string, cells: Record<string, string>): void {
  const row = Object.entries(cells).map(([behaviour, cell]) => `${behaviour}: ${cell}`);
  console.log(`client matrix | ${client} | ${row.join(" | ")}`);
}
