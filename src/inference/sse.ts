const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const SPACE = 0x20;
const DATA = Buffer.from("data:");
const NEW_LINE = Buffer.from("\n");
const NOTHING = Buffer.alloc(0);

/** Bytes that one event may have. */
const MAX_EVENT_BYTES = 1024 * 1024;

export interface SseSplitter {
  /** Payloads of the events that this piece completes. */
  push(piece: Buffer): Buffer[];
  /** Payload of an event that the end of the stream left without its blank line. */
  end(): Buffer | undefined;
}

/**
 * Cuts a stream of server-sent events into their payloads: the `data` of each, lines joined by line
 * feeds. Pieces may be cut anywhere, lines may end in CR LF; comments and other fields are dropped.
 * Payloads are views of the pieces, so nothing is decoded or copied that is whole.
 *
 * @param limit bytes that one event may have
 * @throws Error from `push` where an event is larger
 */
export function createSseSplitter(limit = MAX_EVENT_BYTES): SseSplitter {
  let rest: Buffer = NOTHING;
  let data: Buffer[] = [];
  let size = 0;

  const takeLine = (line: Buffer) => {
    const payload = payloadOf(line);
    if (payload === undefined) return;
    data.push(payload);
    size += payload.length;
  };
  const takeEvent = (): Buffer | undefined => {
    if (data.length === 0) return undefined;
    const event = data.length === 1 ? data[0] : joined(data);
    data = [];
    size = 0;
    return event;
  };

  return {
    push(piece) {
      const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
      const events: Buffer[] = [];
      let at = 0;
      for (let end = bytes.indexOf(LINE_FEED); end !== -1; end = bytes.indexOf(LINE_FEED, at)) {
        const line = bytes.subarray(at, bytes[end - 1] === CARRIAGE_RETURN ? end - 1 : end);
        at = end + 1;
        if (line.length > 0) {
          takeLine(line);
          continue;
        }
        const event = takeEvent();
        if (event !== undefined) events.push(event);
      }
      rest = at === bytes.length ? NOTHING : bytes.subarray(at);
      if (rest.length + size > limit) throw new Error(`an event is larger than ${limit} bytes`);
      return events;
    },
    end() {
      if (rest.length > 0) takeLine(rest);
      rest = NOTHING;
      return takeEvent();
    },
  };
}

/** What stands behind `data:`, without one leading space. Undefined for any other line. */
function payloadOf(line: Buffer): Buffer | undefined {
  if (line.length < DATA.length || line.compare(DATA, 0, DATA.length, 0, DATA.length) !== 0) {
    return undefined;
  }
  return line.subarray(line[DATA.length] === SPACE ? DATA.length + 1 : DATA.length);
}

const joined = (lines: readonly Buffer[]): Buffer =>
  Buffer.concat(lines.flatMap((line, i) => (i === 0 ? [line] : [NEW_LINE, line])));
