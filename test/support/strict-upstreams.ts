import { answers, type Behaviour, type Visit } from "./upstreams.js";

/** What a gateway of the network itself knows at the top of a chat completion. */
const KNOWN = [
  ...["model", "messages", "max_tokens", "n", "stream", "stream_options", "temperature", "top_p"],
  ...["stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs"],
  ...["top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "response_format"],
  ...["reasoning_effort"],
];
const MODEL = "MiniMaxAI/MiniMax-M2.7";

interface Message {
  content?: string | { type: string }[];
}

/** Why a request is refused with 400; undefined where it is not. */
function mistakeIn({ body }: Visit): string | undefined {
  const unknown = Object.keys(body).find((name) => !KNOWN.includes(name));
  const messages = body.messages as Message[];
  const parts = messages.flatMap(({ content }) => (Array.isArray(content) ? content : []));
  if (unknown !== undefined) return `devshard: unknown parameter ${unknown}`;
  if (body.model !== MODEL) return `devshard: no escrow for model ${body.model}`;
  if (body.stream_options !== undefined && body.stream !== true) return "stream_options";
  if (Number(body.n ?? 1) > 5) return "n is too large";
  if (messages.length > 2_048) return "too many messages";
  if (parts.some(({ type }) => type !== "text")) return "text only";
  return undefined;
}

function refuse({ response }: Visit, status: number, message: string, headers: object = {}): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify({ error: { message } }));
}

/**
 * A gateway of the network as it is run for oneself: it knows few parameters, says little of what
 * is wrong, and goes on with its work for a while after whoever asked has hung up.
 *
 * @param key    what it must be shown
 * @param faults statuses that it answers first, one a request
 */
export function ownGateway(key: string, faults: number[] = []): Behaviour {
  return (visit) => {
    const { response, headers } = visit;
    response.setHeader("x-request-id", "devshard-request");
    response.setHeader("x-devshard-id", "gonka1devshard");
    if (headers.authorization !== `Bearer ${key}`) return refuse(visit, 401, "devshard: bad key");
    const mistake = mistakeIn(visit);
    if (mistake !== undefined) return refuse(visit, 400, mistake);
    const fault = faults.shift();
    if (fault === 503) return refuse(visit, 503, "devshard: unroutable", { "retry-after": 10 });
    if (fault !== undefined) return refuse(visit, fault, `devshard: ${fault}`);
    return answers("hello from the shard")(visit);
  };
}

/** A broker in front of such gateways: the same rules, keys of its own form, an empty purse. */
export function broker(key: string, faults: number[] = []): Behaviour {
  const behind = ownGateway(key, faults);
  return (visit) => {
    visit.response.setHeader("server", "openbroker");
    if (visit.headers.authorization !== `Bearer ${key}`) {
      return refuse(visit, 401, "OpenBroker: obk- key is not known");
    }
    if (faults[0] !== 402) return behind(visit);
    faults.shift();
    return refuse(visit, 402, "OpenBroker: top up gonka1deposit");
  };
}

export const NETWORK_MODEL = MODEL;
