import { randomBytes } from "node:crypto";
import { DEMO_IMAGE_TOKENS, demoTokenCount, demoTokens, inTokens } from "./demo-models.js";
import type { DemoRequest, Json } from "./demo-request.js";
import { sampleOf } from "./demo-sample.js";

/** One token of an answer: a piece of a thought, of the text, or of a tool call. */
export type Piece =
  | { kind: "thought" | "secret" | "text"; text: string }
  | { kind: "call"; index: number; id: string; name: string }
  | { kind: "arguments"; index: number; text: string };

const THOUGHTS = "The caller has written something, and an answer to it should be short.";
const SECRET_TOKENS = 24;
const ID_BYTES = 12;
const LIKELY = -0.01;
const UNLIKELY = -9;

/** What a model writes as one answer, token by token, never more than it may. */
export function write(request: DemoRequest): Piece[] {
  const { model, prompt, maxTokens } = request;
  const pieces = thoughtsOf(request);
  if (request.calls.length > 0) pieces.push(...callsOf(request));
  else if (request.schema !== undefined) pieces.push(...texts("text", jsonOf(request.schema)));
  else
    pieces.push(
      ...demoTokens(model, prompt, maxTokens).map((text) => ({ kind: "text", text }) as const),
    );
  return pieces.slice(0, maxTokens);
}

const texts = (kind: "thought" | "text", text: string): Piece[] =>
  inTokens(text).map((piece) => ({ kind, text: piece }));

const jsonOf = (schema: Json): string => JSON.stringify(sampleOf(schema));

function thoughtsOf({ model }: DemoRequest): Piece[] {
  if (model.thinks === "aloud") return texts("thought", THOUGHTS);
  if (model.thinks === undefined) return [];
  return Array.from({ length: SECRET_TOKENS }, () => ({ kind: "secret", text: "" }));
}

function callsOf({ calls }: DemoRequest): Piece[] {
  return calls.flatMap(({ name, parameters }, index) => {
    const id = `call_${randomBytes(ID_BYTES).toString("hex")}`;
    const pieces = inTokens(jsonOf(parameters));
    return [
      { kind: "call", index, id, name } as const,
      ...pieces.map((text) => ({ kind: "arguments", index, text }) as const),
    ];
  });
}

/** Why it stopped. */
export function finishOf({ maxTokens }: DemoRequest, pieces: readonly Piece[]): string {
  if (pieces.length >= maxTokens) return "length";
  return pieces.some(({ kind }) => kind === "call") ? "tool_calls" : "stop";
}

/** An answer in one piece. */
export function messageOf(pieces: readonly Piece[]): Json {
  const join = (kind: Piece["kind"]) =>
    pieces.map((piece) => (piece.kind === kind && "text" in piece ? piece.text : "")).join("");
  const calls = pieces.flatMap((piece) => (piece.kind === "call" ? [piece] : []));
  const thoughts = join("thought");
  return {
    role: "assistant",
    content: calls.length > 0 ? null : join("text"),
    refusal: null,
    ...(thoughts !== "" && { reasoning_content: thoughts }),
    ...(calls.length > 0 && {
      tool_calls: calls.map(({ id, name, index }) => ({
        id,
        type: "function",
        function: { name, arguments: argumentsOf(pieces, index) },
      })),
    }),
  };
}

const argumentsOf = (pieces: readonly Piece[], call: number): string =>
  pieces
    .map((piece) => (piece.kind === "arguments" && piece.index === call ? piece.text : ""))
    .join("");

/** What one token adds to a streamed answer; undefined for one that nobody sees. */
export function deltaOf(piece: Piece): Json | undefined {
  switch (piece.kind) {
    case "secret":
      return undefined;
    case "thought":
      return { reasoning_content: piece.text };
    case "text":
      return { content: piece.text };
    case "call": {
      const { index, id, name } = piece;
      return { tool_calls: [{ index, id, type: "function", function: { name, arguments: "" } }] };
    }
    case "arguments":
      return { tool_calls: [{ index: piece.index, function: { arguments: piece.text } }] };
  }
}

/** How sure it was of each token of its text; null where nobody asked. */
export function logprobsOf({ topLogprobs }: DemoRequest, pieces: readonly Piece[]): Json | null {
  if (topLogprobs === undefined) return null;
  const chance = (token: string, logprob: number) => ({
    token,
    logprob,
    bytes: [...Buffer.from(token)],
  });
  const content = pieces.flatMap((piece) => {
    if (piece.kind !== "text") return [];
    const others = Array.from({ length: topLogprobs }, (_, i) =>
      chance(i === 0 ? piece.text : `other ${i}`, i === 0 ? LIKELY : UNLIKELY - i),
    );
    return [{ ...chance(piece.text, LIKELY), top_logprobs: others }];
  });
  return { content, refusal: null };
}

/** Tokens of the prompt and of all answers, each as long as `pieces`. */
export function usageOf({ prompt, images, n }: DemoRequest, pieces: readonly Piece[]) {
  const thoughts = pieces.filter(({ kind }) => kind === "thought" || kind === "secret").length * n;
  const prompt_tokens = demoTokenCount(prompt) + images * DEMO_IMAGE_TOKENS;
  const completion_tokens = pieces.length * n;
  return {
    prompt_tokens,
    completion_tokens,
    total_tokens: prompt_tokens + completion_tokens,
    prompt_tokens_details: null,
    ...(thoughts > 0 && { completion_tokens_details: { reasoning_tokens: thoughts } }),
  };
}
