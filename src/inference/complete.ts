import { Refusal, refuse } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { now, SECOND } from "../base/time.js";
import { newAnswerId } from "./answer-id.js";
import { askUpstream, noteCause, readAll } from "./ask.js";
import { type ChatRequest, isObject, type Json } from "./parameters.js";
import { openPayment, type Payer, type Paying, type Payment } from "./payment.js";
import { reportedUsage, tokensOf, type Usage, usageBody } from "./usage.js";

/**
 * Runs a paid chat completion in one piece: hold, upstream, capture, and only then the answer.
 * Where the upstream does not answer, or the caller hangs up before it has, the hold is voided.
 *
 * @returns OpenAI's chat completion with our id and usage, and nothing that names the upstream
 * @throws what `openPayment` refuses, and the reasons for an upstream that fails
 */
export async function complete(
  paying: Paying,
  payer: Payer,
  request: ChatRequest,
  line: AbortController,
): Promise<Json> {
  const payment = await openPayment(paying, payer, request, line);
  let answer: Answer;
  try {
    answer = await ask(payment, request, paying.log);
  } catch (error) {
    await payment.void();
    throw error;
  }
  const usage = reportedUsage(answer) ?? countedUsage(request, answer.choices, payment.maxTokens);
  const cost = await payment.capture(usage);
  return {
    id: newAnswerId(),
    object: "chat.completion",
    created: Number.isSafeInteger(answer.created) ? answer.created : Math.floor(now() / SECOND),
    model: request.model,
    choices: answer.choices,
    usage: usageBody(usage, cost, answer.usage),
  };
}

type Answer = Json & { choices: unknown[] };

async function ask(payment: Payment, request: ChatRequest, log: Log): Promise<Answer> {
  const exchange = await askUpstream(payment, request, log);
  try {
    const answer: unknown = JSON.parse(await readAll(exchange));
    if (!isObject(answer) || !Array.isArray(answer.choices) || answer.choices.length === 0) {
      throw new Error("the upstream's answer is no chat completion");
    }
    return answer as Answer;
  } catch (error) {
    if (payment.signal.aborted) throw payment.signal.reason;
    if (error instanceof Refusal) {
      noteCause(error, payment, log);
      throw error;
    }
    log.warn({ upstream: payment.upstream.name, hold: payment.id }, "unreadable answer");
    throw refuse("model_unavailable");
  }
}

function countedUsage(request: ChatRequest, choices: unknown[], maxTokens: number): Usage {
  const written = choices.map((choice) => (isObject(choice) ? choice.message : undefined));
  const bytes = written.reduce<number>((sum, message) => sum + textBytes(message), 0);
  return {
    inputTokens: BigInt(tokensOf(request.bytes)),
    outputTokens: BigInt(Math.min(tokensOf(bytes), maxTokens * request.n)),
    estimated: true,
  };
}

/** Bytes of all that a model wrote into one answer: its text, its thoughts, its calls. */
function textBytes(message: unknown): number {
  if (!isObject(message)) return 0;
  const texts = [message.content, message.reasoning_content].filter(
    (text): text is string => typeof text === "string",
  );
  const calls = message.tool_calls ? JSON.stringify(message.tool_calls) : "";
  return [...texts, calls].reduce((sum, text) => sum + Buffer.byteLength(text), 0);
}
