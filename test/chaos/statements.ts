const NAME_END = 0;
const TYPE_BYTES = 1;
const LENGTH_BYTES = 4;

/**
 * Reads along what a client of Postgres sends, and tells which statements its pieces run. Named
 * statements are learnt when they are parsed.
 *
 * @returns for each piece the texts of the statements that it completes
 */
export function statementReader(): (piece: Buffer) => string[] {
  const known = new Map<string, string>();
  let rest: Buffer = Buffer.alloc(0);
  let started = false;

  function read(type: string, body: Buffer): string | undefined {
    if (type === "Q") return textAt(body, 0).text;
    if (type === "P") {
      const name = textAt(body, 0);
      known.set(name.text, textAt(body, name.end).text);
    }
    if (type !== "B") return undefined;
    return known.get(textAt(body, textAt(body, 0).end).text);
  }

  function next(): { statement: string | undefined } | undefined {
    // The first message of a connection has no type
    const head = started ? TYPE_BYTES : 0;
    if (rest.length < head + LENGTH_BYTES) return undefined;
    const end = head + rest.readInt32BE(head);
    if (rest.length < end) return undefined;
    const type = started ? String.fromCharCode(rest[0] ?? 0) : "";
    const statement = read(type, rest.subarray(head + LENGTH_BYTES, end));
    started = true;
    rest = rest.subarray(end);
    return { statement };
  }

  return (piece) => {
    rest = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    const ran: string[] = [];
    for (let message = next(); message; message = next()) {
      if (message.statement !== undefined) ran.push(message.statement);
    }
    return ran;
  };
}

function textAt(bytes: Buffer, start: number): { text: string; end: number } {
  const end = bytes.indexOf(NAME_END, start);
  return { text: bytes.toString("utf8", start, end), end: end + 1 };
}
