/**
 * What a demo model does with a request. Its ids are what the seed prices and what tests ask for.
 */
export interface DemoModel {
  id: string;
  /** Milliseconds between two tokens of a stream; an unary answer takes as long as all of them. */
  paceMs: number;
  /** Tokens that it writes where nothing limits it; null: as many as it may. */
  tokens: number | null;
  /** Whether it thinks before it writes: for its caller to read, or only on the bill. */
  thinks?: "aloud" | "silently";
  /** Whether it takes images. */
  sees?: true;
  /** It makes vectors, and nothing else. */
  embeds?: true;
  fault?: DemoFault;
}

export type DemoFault =
  | "error-429"
  /** Is too busy for every other request, beginning with the first. */
  | "busy-at-first"
  | "error-500"
  | "error-400"
  | "hang"
  | "no-usage"
  /** Reports half of its usage first, and all of it in a further chunk. */
  | "usage-twice"
  | "zero-usage"
  /** Breaks off in mid-answer. */
  | "cut"
  /** Writes something that is no JSON in mid-answer. */
  | "garbage";

const SHORT = 40;
/** Twenty tokens a second: a pace that a human can follow. */
const SLOW_MS = 50;

export const DEMO_MODELS: readonly DemoModel[] = [
  { id: "demo/fast", paceMs: 0, tokens: SHORT },
  { id: "demo/slow", paceMs: SLOW_MS, tokens: SHORT },
  { id: "demo/long", paceMs: 0, tokens: null },
  { id: "demo/thinking", paceMs: 0, tokens: SHORT, thinks: "aloud" },
  { id: "demo/hidden-thinking", paceMs: 0, tokens: SHORT, thinks: "silently" },
  { id: "demo/vision", paceMs: 0, tokens: SHORT, sees: true },
  { id: "demo/embedding", paceMs: 0, tokens: 0, embeds: true },
  { id: "demo/error-429", paceMs: 0, tokens: 0, fault: "error-429" },
  { id: "demo/busy-at-first", paceMs: 0, tokens: SHORT, fault: "busy-at-first" },
  { id: "demo/error-500", paceMs: 0, tokens: 0, fault: "error-500" },
  { id: "demo/error-400", paceMs: 0, tokens: 0, fault: "error-400" },
  { id: "demo/hang", paceMs: 0, tokens: 0, fault: "hang" },
  { id: "demo/no-usage", paceMs: 0, tokens: SHORT, fault: "no-usage" },
  { id: "demo/usage-twice", paceMs: 0, tokens: SHORT, fault: "usage-twice" },
  { id: "demo/zero-usage", paceMs: 0, tokens: SHORT, fault: "zero-usage" },
  { id: "demo/cut", paceMs: 0, tokens: SHORT, fault: "cut" },
  { id: "demo/garbage", paceMs: 0, tokens: SHORT, fault: "garbage" },
];

const OPENING = "This is Keytoll's demo model: it thinks nothing, costs like a real one, and read";
const FILLER = "and so it goes on writing until it may not write any more".split(" ");
const ECHOED_CHARACTERS = 60;

/** What a demo model writes, token by token (a word each), at most `most` tokens. */
export function demoTokens(model: DemoModel, prompt: string, most: number): string[] {
  const echo = prompt.slice(0, ECHOED_CHARACTERS).trim();
  const words = `${OPENING} "${echo}".`.split(/\s+/);
  const wanted = model.tokens === null ? most : Math.min(words.length, model.tokens);
  const count = Math.min(wanted, most);
  return Array.from({ length: count }, (_, i) => {
    const word = words[i] ?? FILLER[(i - words.length) % FILLER.length] ?? "";
    return i === 0 ? word : ` ${word}`;
  });
}

/** Tokens of a text as the demo models count them: four characters each, rounded up. */
export const demoTokenCount = (text: string): number => Math.ceil(text.length / 4);

/** A text in pieces of one token each. */
export const inTokens = (text: string): string[] => text.match(/[\s\S]{1,4}/gu) ?? [];

/** Tokens of an image, whatever its size. */
export const DEMO_IMAGE_TOKENS = 256;
