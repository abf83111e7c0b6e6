const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/**
 * The values of an object's own fields as they are written, by name; of a field that stands there
 * twice the last, as JSON.parse has it. For numbers, of which JSON.parse makes doubles.
 *
 * @param json an object that JSON.parse accepts
 */
export function numberTexts(json: string): Map<string, string> {
  const tokens = json.match(TOKENS) ?? [];
  const texts = new Map<string, string>();
  let depth = 0;
  for (const [i, token] of tokens.entries()) {
    if (token === "{" || token === "[") depth += 1;
    else if (token === "}" || token === "]") depth -= 1;
    else if (token === ":" && depth === 1) {
      texts.set(JSON.parse(tokens[i - 1] ?? '""') as string, tokens[i + 1] ?? "");
    }
  }
  return texts;
}
