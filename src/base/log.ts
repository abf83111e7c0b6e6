import { type Logger, pino } from "pino";

export type Log = Logger;

/** Fields that may carry a secret or a prompt, wherever they stand. */
const SECRET_FIELDS = ["authorization", "password", "secret", "token", "key", "x-api-key", "body"];

/**
 * A logger that writes one JSON line an event to standard error (standard output belongs to the
 * commands).
 *
 * @param level pino's levels: trace, debug, info, warn, error, fatal, silent
 * @param part  which process or room speaks, e.g. "gateway"
 */
export function createLog(level: string, part: string): Log {
  const paths = SECRET_FIELDS.flatMap((field) => [`["${field}"]`, `*["${field}"]`]);
  return pino(
    { level, base: { part }, redact: { paths, censor: "[hidden]" } },
    pino.destination(2),
  );
}
