import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { pause } from "../../src/base/time.js";
import type { Served, UpstreamBook } from "./books.js";

/** What a request wants the upstream to do: it travels in the prompt. */
export interface Plan {
  no: number;
  /** Tokens to report. */
  input: number;
  output: number;
  /** Milliseconds before the first byte. */
  delay: number;
  /** Pieces of a stream and milliseconds between them. */
  pieces: number;
  pace: number;
  /** Does not report usage, fails, or breaks off in the middle. */
  fault: "none" | "silent" | "error" | "cut";
}

/** Where a request stands when a trap springs. */
export type Point = "arrived" | "midstream" | "answered";

export interface LabelledUpstream {
  url: string;
  book: UpstreamBook;
  /** Calls `spring` with the gateway's name when the next request gets there, once. */
  set(point: Point, spring: ((gateway: string) => void) | undefined): void;
  close(): Promise<void>;
}

type Traps = Map<Point, (gateway: string) => void>;

export const MODEL = "chaos/labelled";

/**
 * An upstream that writes down what it served to whom. Gateways show their name as the key.
 */
export async function startUpstream(): Promise<LabelledUpstream> {
  const book: UpstreamBook = new Map();
  const traps: Traps = new Map();
  const server = createServer((request, response) => {
    response.on("error", () => {});
    answer(request, response, book, traps).catch(() => response.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    book,
    set(point, spring) {
      if (spring) traps.set(point, spring);
      else traps.delete(point);
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  book: UpstreamBook,
  traps: Traps,
): Promise<void> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  const body = JSON.parse(Buffer.concat(pieces).toString("utf8")) as {
    stream?: boolean;
    messages: { content: string }[];
  };
  const plan = JSON.parse(body.messages[0]?.content ?? "") as Plan;
  const gateway = request.headers.authorization?.replace("Bearer ", "") ?? "";
  const served = note(book, plan, gateway);
  const reached = (point: Point) => {
    const spring = traps.get(point);
    traps.delete(point);
    spring?.(gateway);
  };
  reached("arrived");
  if (plan.delay > 0) await pause(plan.delay);
  if (plan.fault === "error") {
    response.writeHead(500, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { message: "as planned", type: "server_error" } }));
    return;
  }
  if (body.stream) await stream(plan, response, reached);
  else unary(plan, response);
  if (plan.fault === "cut" || response.destroyed) return;
  served.whole = true;
  reached("answered");
}

function note(book: UpstreamBook, plan: Plan, gateway: string): Served {
  const { no, input, output } = plan;
  const usage = plan.fault === "silent" ? null : { input, output };
  const served = book.get(no) ?? { no, gateway, times: 0, whole: false, usage };
  served.times += 1;
  book.set(no, served);
  return served;
}

const head = ({ no }: Plan, object: string) => ({ id: `up-${no}`, object, created: 1, model: "m" });

const usageOf = ({ input, output, fault }: Plan) =>
  fault === "silent"
    ? {}
    : {
        usage: {
          prompt_tokens: input,
          completion_tokens: output,
          total_tokens: input + output,
        },
      };

function unary(plan: Plan, response: ServerResponse): void {
  const message = { role: "assistant", content: `answer ${plan.no}` };
  const text = JSON.stringify({
    ...head(plan, "chat.completion"),
    choices: [{ index: 0, message, finish_reason: "stop" }],
    ...usageOf(plan),
  });
  response.writeHead(200, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
  });
  if (plan.fault === "cut") return void response.write(text.slice(0, 40), () => response.destroy());
  response.end(text);
}

async function stream(
  plan: Plan,
  response: ServerResponse,
  reached: (point: Point) => void,
): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream" });
  const write = (chunk: object) =>
    response.write(
      `data: ${JSON.stringify({ ...head(plan, "chat.completion.chunk"), ...chunk })}\n\n`,
    );
  for (let i = 0; i < plan.pieces; i++) {
    if (response.destroyed) return;
    write({ choices: [{ index: 0, delta: { content: `word ${i} ` }, finish_reason: null }] });
    if (i === Math.floor(plan.pieces / 2)) {
      if (plan.fault === "cut") return void response.destroy();
      reached("midstream");
    }
    if (plan.pace > 0) await pause(plan.pace);
  }
  write({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
  if (plan.fault !== "silent") write({ choices: [], ...usageOf(plan) });
  response.end("data: [DONE]\n\n");
}
