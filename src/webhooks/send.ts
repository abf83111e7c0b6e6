import { isIP } from "node:net";
import { Webhook } from "standardwebhooks";
import { Agent, buildConnector, request } from "undici";
import { now, SECOND } from "../base/time.js";
import { hostOf, type Targets } from "./targets.js";

/** One request to an endpoint. */
export interface Message {
  url: string;
  /** Id of the event, the same at each try. */
  id: string;
  body: string;
  /** Newest first: during the grace of a replaced secret there are two. */
  secrets: readonly string[];
}

/** What came of a request: the status that was answered, or why there was none. */
export type Answer = { status: number } | { status: null; problem: string };

export interface Sender {
  send(message: Message, signal?: AbortSignal): Promise<Answer>;
  close(): Promise<void>;
}

const TIMEOUT = 12 * SECOND;
/** Bytes of an answer that are read, so that its connection can be used again. */
const ANSWER = 16 * 1_024;
const CONNECTIONS = 4;

/**
 * Sends signed requests to endpoints. Every address is checked when it is dialled, by the very
 * look-up that it is dialled with, so that a name which means another address by then leads
 * nowhere. Redirects are answers like any other; the answer's body is not kept.
 */
export function createSender(targets: Targets, timeout: number = TIMEOUT): Sender {
  const agent = new Agent({
    connect: guarded(targets, timeout),
    connections: CONNECTIONS,
    headersTimeout: timeout,
    bodyTimeout: timeout,
    pipelining: 1,
  });

  async function send(message: Message, signal?: AbortSignal): Promise<Answer> {
    const late = AbortSignal.timeout(timeout);
    const problem = targets.problemOf(new URL(message.url));
    if (problem) return { status: null, problem: `its URL ${problem}` };
    try {
      const { statusCode, body } = await request(message.url, {
        dispatcher: agent,
        method: "POST",
        headers: headersOf(message),
        body: message.body,
        signal: signal ? AbortSignal.any([signal, late]) : late,
      });
      await body.dump({ limit: ANSWER }).catch(() => {});
      return { status: statusCode };
    } catch (error) {
      signal?.throwIfAborted();
      if (late.aborted) return { status: null, problem: `no answer in ${timeout / SECOND} s` };
      return { status: null, problem: inWords(error) };
    }
  }
  return { send, close: () => agent.destroy() };
}

function headersOf({ id, body, secrets }: Message): Record<string, string> {
  const at = new Date(now());
  const signatures = secrets.map((secret) => new Webhook(secret).sign(id, at, body));
  return {
    "content-type": "application/json",
    "user-agent": "keytoll-webhooks/1",
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(at.getTime() / SECOND)),
    "webhook-signature": signatures.join(" "),
  };
}

/** A connector that dials only what may be reached. */
function guarded(targets: Targets, timeout: number): buildConnector.connector {
  const dial = buildConnector({
    timeout,
    lookup: (host, { all }, done) => {
      targets.resolve(host).then(
        (found) => {
          const addresses = found.map((address) => ({ address, family: isIP(address) }));
          const first = addresses[0] ?? { address: "", family: 4 };
          if (all) done(null, addresses);
          else done(null, first.address, first.family);
        },
        (error: Error) => done(error, "", 4),
      );
    },
  });
  return (options, done) => {
    const host = hostOf(new URL(`http://${bracketed(options.hostname)}`));
    // An address that stands in the URL is dialled without any look-up
    if (isIP(host) && !targets.allows(host)) {
      return done(new Error("it leads to an address that is not public"), null);
    }
    dial(options, done);
  };
}

const bracketed = (host: string): string => (isIP(host) === 6 ? `[${host}]` : host);

const WORDS: Record<string, string> = {
  ECONNREFUSED: "the connection was refused",
  ECONNRESET: "the connection was cut",
  UND_ERR_SOCKET: "the connection was cut",
  ENOTFOUND: "its host cannot be resolved",
  EAI_AGAIN: "its host cannot be resolved",
  ETIMEDOUT: "no connection in time",
  UND_ERR_CONNECT_TIMEOUT: "no connection in time",
};

function inWords(error: unknown): string {
  if (!(error instanceof Error)) return "the request failed";
  const code = "code" in error ? String(error.code) : "";
  if (/CERT|TLS|SSL|SELF_SIGNED/.test(code)) return `its certificate is not accepted (${code})`;
  return WORDS[code] ?? (code || error.message.slice(0, 200));
}
