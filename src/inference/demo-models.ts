/**
 * What a demo model does with a request. Its ids are what the seed prices and what tests ask for.
 */
export interface DemoModel {
  id: string;
  /** Milliseconds between two tokens of a stream; an unary answer takes as long as all of them. */
  paceMs: number;
  /** Tokens that it writes where nothing limits it; null: as many as it may. */
  tokens: number | null;
  fault?: "error-429" | "error-500" | "error-400" | "hang" | "no-usage" | "cut";
}

const SHORT = 40;
/** Twenty tokens a second: a pace that a human can follow. */
const SLOW_MS = 50;

export const DEMO_MODELS: readonly DemoModel[] = [
  { id: "demo/fast", paceMs: 0, tokens: SHORT },
  { id: "demo/slow", paceMs: SLOW_MS, tokens: SHORT },
  { id: "demo/long", paceMs: 0, tokens: null },
  { id: "demo/error-429", paceMs: 0, tokens: 0, fault: "error-429" },
  { id: "demo/error-500", paceMs: 0, tokens: 0, fault: "error-500" },
  { id: "demo/error-400", paceMs: 0, tokens: 0, fault: "error-400" },
  { id: "demo/hang", paceMs: 0, tokens: 0, fault: "hang" },
  { id: "demo/no-usage", paceMs: 0, tokens: SHORT, fault: "no-usage" },
  { id: "demo/cut", paceMs: 0, tokens: SHORT, fault: "cut" },
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
