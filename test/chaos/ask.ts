import { createHash } from "node:crypto";
import { Agent, request } from "undici";
import type { Asked } from "./books.js";
import type { Dice } from "./dice.js";
import type { Child } from "./shops.js";
import { MODEL, type Plan } from "./upstream.js";

export interface Question {
  child: Child;
  plan: Plan;
  stream: boolean;
  /** Milliseconds after which the caller hangs up. */
  patience: number;
}

const MAX_TOKENS = 200;
/** Whose answer means for certain that nothing was spent. */
const REFUSALS = new Set(["model_unavailable", "upstream_timeout"]);
const agent = new Agent({ connections: 64, pipelining: 1, connect: { timeout: 5_000 } });

/** What to ask next: mostly quick, now and then slow, silent, broken or far dearer than held. */
export function aPlan(no: number, dice: Dice): Plan {
  const fault = dice.chance(0.03)
    ? dice.pick(["silent", "error", "cut"] as const)
    : ("none" as const);
  return {
    no,
    input: dice.chance(0.01) ? 5_000 : dice.int(1, 120),
    output: dice.int(1, 150),
    delay: dice.chance(0.1) ? dice.int(100, 1_500) : dice.int(0, 20),
    pieces: dice.int(3, 30),
    pace: dice.chance(0.3) ? dice.int(20, 80) : dice.int(0, 4),
    fault,
  };
}

/** Asks once, without a retry. @returns what its caller knows afterwards */
export async function ask(http: string, { child, plan, stream, patience }: Question) {
  const body = JSON.stringify({
    model: MODEL,
    max_tokens: MAX_TOKENS,
    messages: [{ role: "user", content: JSON.stringify(plan) }],
    ...(stream && { stream, stream_options: { include_usage: true } }),
  });
  const fingerprint = createHash("sha256").update(body).digest().readBigInt64BE();
  const asked = { no: plan.no, child: child.id, stream, fingerprint };
  try {
    const answer = await request(`${http}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${child.secret}`, "content-type": "application/json" },
      body,
      dispatcher: agent,
      signal: AbortSignal.timeout(patience),
    });
    const text = await answer.body.text();
    return { ...asked, ...read(answer.statusCode, text, stream) };
  } catch (error) {
    return { ...asked, ...lost(error) };
  }
}

type Known = Pick<Asked, "outcome" | "cost" | "why">;

function read(status: number, text: string, stream: boolean): Known {
  if (status !== 200) {
    const code = /"code":"(\w+)"/.exec(text)?.[1] ?? "";
    const certain = status < 500 || (REFUSALS.has(code) && !stream);
    return { outcome: certain ? "refused" : "unknown", why: `${status} ${code}` };
  }
  const cost = /"cost_units":"([0-9]+)"/.exec(text)?.[1];
  const whole = stream ? text.endsWith("data: [DONE]\n\n") : true;
  if (cost === undefined || !whole) return { outcome: "unknown", why: "the stream broke off" };
  return { outcome: "acknowledged", cost: BigInt(cost), why: "" };
}

function lost(error: unknown): Known {
  if (error instanceof DOMException) return { outcome: "unknown", why: "hung up" };
  const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
  // Nobody listened: nothing was sent
  return { outcome: code === "ECONNREFUSED" ? "refused" : "unknown", why: code };
}

export const closeConnections = (): Promise<void> => agent.destroy();
