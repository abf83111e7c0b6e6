import type { IncomingMessage, ServerResponse } from "node:http";

const VERBS = "GET, POST, PUT, PATCH, DELETE";
/** Seconds for which a browser need not ask again: the most that any of them keeps. */
const MAX_AGE = "7200";
const HEADER_NAMES = /^[\w!#$%&'*+.^`|~, -]{1,2000}$/;

/**
 * Lets scripts of pages from anywhere call us: whoever calls shows a key in a header, and nothing
 * here heeds a cookie, so that a page can do no more than its own key may. It may read every header
 * of an answer. Does nothing for callers that are no browsers.
 *
 * @returns true where the request was a browser's question whether it may, which is answered
 */
export function allowOrigin(request: IncomingMessage, response: ServerResponse): boolean {
  if (request.headers.origin === undefined) return false;
  response.setHeader("access-control-allow-origin", "*");
  response.setHeader("access-control-expose-headers", "*");
  const { headers, method } = request;
  if (method !== "OPTIONS" || headers["access-control-request-method"] === undefined) return false;

  const names = headers["access-control-request-headers"] ?? "";
  response.setHeader("access-control-allow-methods", VERBS);
  // A wildcard would leave out `authorization`
  if (HEADER_NAMES.test(names)) response.setHeader("access-control-allow-headers", names);
  response.setHeader("access-control-max-age", MAX_AGE);
  response.setHeader("vary", "access-control-request-headers");
  response.statusCode = 204;
  response.end();
  return true;
}
