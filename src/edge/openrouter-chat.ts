import { refuseField } from "../base/errors.js";
import { showAmount, type Unit } from "../base/unit.js";
import { newAnswerId } from "../inference/answer-id.js";
import { CHAT } from "../inference/chat.js";
import type { StopReason } from "../inference/chunks.js";
import type { Kind } from "../inference/kind.js";
import { type ChatRequest, readChatRequest } from "../inference/parameters.js";
import { fingerprintOf, parseBody } from "../inference/request.js";
import { isObject, type Json } from "../inference/values.js";

/** They hint at what to keep for later, and change no answer. */
const DROPPED = ["cache_control", "prompt_cache_options"];
/** They ask for an upstream's own words, or for work beside the model's. */
const COSTLY = ["debug", "image_config", "stop_server_tools_when"];
/** Fields of a message that these clients do not read when they are null. */
const NOT_NULL = ["tool_calls", "audio", "images", "reasoning_details", "annotations"];
const THOUGHTS = "reasoning_content";
const SUSPECT = [
  `"${THOUGHTS}"`,
  ...NOT_NULL.flatMap((name) => [`"${name}":null`, `"${name}": null`]),
];

/**
 * Reads a chat completion as OpenRouter's clients send it: without what only OpenRouter knows.
 * Streams end with their usage.
 *
 * @throws invalid_request_error by the parameter's name
 */
export function readOpenRouterChat(raw: Buffer): ChatRequest {
  const body = parseBody(raw);
  // The answer to an idempotency key is kept in its dialect: in another one it is another request
  const asked = readChatRequest(plain(body), raw.length, fingerprintOf(raw) ^ 1n);
  if (!asked.stream) return asked;
  return { ...asked, includeUsage: !isDeclined(body) && "last", answerId: newAnswerId() };
}

const isDeclined = ({ usage, stream_options: options }: Json): boolean =>
  (isObject(usage) && usage.include === false) ||
  (isObject(options) && options.include_usage === false);

/** The body in OpenAI's words. */
function plain(body: Json): Json {
  const costly = COSTLY.find((name) => Object.hasOwn(body, name));
  if (costly !== undefined) throw refuseField(costly, "is not supported");
  const ours = ["reasoning", ...DROPPED];
  const kept = Object.entries(body).filter(([name]) => !ours.includes(name));
  return { ...Object.fromEntries(kept), ...effortOf(body) };
}

/** Of `reasoning` only its effort is taken: all thoughts count as output, whatever a budget says. */
function effortOf({ reasoning }: Json): Json {
  if (reasoning === undefined || reasoning === null) return {};
  if (!isObject(reasoning)) throw refuseField("reasoning", "must be an object");
  const { effort, enabled, exclude, ...others } = reasoning;
  const [unknown] = Object.keys(others).filter((name) => others[name] !== null);
  if (unknown !== undefined)
    throw refuseField(`reasoning.${unknown.slice(0, 60)}`, "is not supported");
  if (enabled === false) throw refuseField("reasoning.enabled", "only true is supported");
  if (exclude === true) throw refuseField("reasoning.exclude", "only false is supported");
  return effort === undefined || effort === null ? {} : { reasoning_effort: effort };
}

/**
 * OpenAI's chat completions as OpenRouter's clients read them.
 *
 * @param unit of `usage.cost`, the same as of their limits
 */
export function openRouterChat(unit: Unit): Kind<ChatRequest> {
  const priced = (usage: Json): Json =>
    typeof usage.cost_units === "string" && typeof usage.cost === "number"
      ? { ...usage, cost: showAmount(unit, BigInt(usage.cost_units)) }
      : usage;
  return {
    ...CHAT,
    show(request, answer, bill) {
      const shown = CHAT.show(request, answer, bill);
      const choices = (shown.choices as unknown[]).map((choice) => written(choice, "message"));
      return { ...shown, choices, system_fingerprint: null, usage: priced(shown.usage as Json) };
    },
    reader(request, meter) {
      const reader = CHAT.reader(request, meter);
      const { take, finale, cut } = reader;
      return Object.assign(reader, {
        take: (payload: Buffer) => take(adapted(payload)),
        finale: (usage: Json) => finale(priced(usage)),
        cut: (usage: Json, stop: StopReason | undefined) => cut(priced(usage), stop),
      });
    },
  };
}

/** An event of an upstream, changed only where these clients could not read it. */
function adapted(payload: Buffer): Buffer {
  if (!SUSPECT.some((text) => payload.includes(text))) return payload;
  const chunk = parsed(payload);
  if (!isObject(chunk) || !Array.isArray(chunk.choices)) return payload;
  const choices = chunk.choices.map((choice) => written(choice, "delta"));
  return Buffer.from(JSON.stringify({ ...chunk, choices }));
}

function parsed(payload: Buffer): unknown {
  try {
    return JSON.parse(payload.toString("utf8"));
  } catch {
    return undefined;
  }
}

function written(choice: unknown, where: "message" | "delta"): unknown {
  const message = isObject(choice) ? choice[where] : undefined;
  if (!isObject(choice) || !isObject(message)) return choice;
  const fields = Object.entries(message)
    .filter(([name, value]) => value !== null || !NOT_NULL.includes(name))
    .map(([name, value]) => [name === THOUGHTS ? "reasoning" : name, value]);
  return { ...choice, [where]: Object.fromEntries(fields) };
}
