import type { IncomingMessage, ServerResponse } from "node:http";
import {
  create,
  type DescField,
  type DescMessage,
  type DescMethodUnary,
  type JsonObject,
  type JsonValue,
  type MessageShape,
} from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";
import { FieldMaskSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { refuse, refuseField } from "../../base/errors.js";
import { newId } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import { readBody, sendError, sendJson } from "./answer.js";
import { type Download, isDownload, sendDownload } from "./download.js";
import { fromRest, setFromText } from "./from-rest.js";
import { type CallContext, callOf, type ServiceTable } from "./handlers.js";
import { toRest } from "./to-rest.js";

const MAX_BODY_BYTES = 1024 * 1024;
const MASK = "update_mask";

type Verb = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** What a route is told of a request, its parts still text. */
export interface RestRequest {
  /** By name of the request's field. */
  params: ReadonlyMap<string, string>;
  query: URLSearchParams;
  body: Buffer;
}

export interface RestRoute {
  verb: Verb;
  /**
   * Path by segments; one that starts with ":" names the request's field that it fills, a last one
   * with "*" the field that the rest of the path fills, slashes included.
   */
  segments: readonly string[];
  status: number;
  answer(request: RestRequest, caller: CallContext): Promise<JsonObject | Download>;
}

/** How a method of the table looks in REST. */
interface RestRule<I extends DescMessage, O extends DescMessage> {
  /** `POST /api/management/keys/:management_key_id/children`. */
  on: `${Verb} /${string}`;
  method: DescMethodUnary<I, O>;
  /** HTTP status of success; 200 when absent. */
  status?: number;
  /** Fields of the request that query parameters fill, by name; none when absent. */
  query?: readonly string[];
}

/**
 * A REST route as a caller of the same handler that RPC has. Its path and query fill the named
 * fields, its body the others; a PATCH fills `update_mask` with the keys that its body has (null
 * removes). In the answer a single resource is spread: `{management_key: {id, ...}, key}` becomes
 * `{id, ..., key}`; not so beside a list.
 */
export function restRoute<I extends DescMessage, O extends DescMessage>(
  services: ServiceTable,
  { on, method, status = 200, query = [] }: RestRule<I, O>,
): RestRoute {
  const [verb, path] = on.split(" ") as [Verb, string];
  const segments = path.slice(1).split("/");
  const inPath = segments.filter(isParam).map((each) => each.slice(1));
  const elsewhere = new Set([...inPath, ...query, MASK]);
  const inBody = new Set(
    method.input.fields.map((field) => field.name).filter((name) => !elsewhere.has(name)),
  );
  for (const name of [...inPath, ...query]) fieldOf(method.input, name);
  const call = callOf(services, method);

  return {
    verb,
    segments,
    status,
    async answer(request, caller) {
      const hasBody = verb !== "GET" && verb !== "DELETE";
      const json = hasBody ? parseBody(request.body) : {};
      const message = fromRest(method.input, json, inBody);
      if (verb === "PATCH") setMask(method.input, message, json);
      fillFromUrl(method.input, message, request, query);
      return spread(method.output, toRest(method.output, await call(message, caller)));
    },
  };
}

/**
 * Serves routes; whatever is none of them gets 404, a known path with another verb 405 with
 * `Allow`. Bodies up to 1 MiB, read as JSON whatever their content type says.
 */
export function restHandler(routes: readonly RestRoute[], log: Log) {
  return (request: IncomingMessage, response: ServerResponse): void => {
    const requestId = newId();
    serve(routes, request, response, requestId).catch((error: unknown) =>
      sendError(response, error, requestId, log),
    );
  };
}

async function serve(
  routes: readonly RestRoute[],
  request: IncomingMessage,
  response: ServerResponse,
  requestId: string,
): Promise<void> {
  const [path = "", ...search] = (request.url ?? "").split("?");
  const segments = path.slice(1).split("/").map(decodeSegment);
  const here = routes.filter((route) => paramsOf(route.segments, segments) !== undefined);
  const route = here.find((each) => each.verb === request.method);
  if (!route) {
    if (here.length === 0) throw refuse("not_found", { message: "no such path" });
    response.setHeader("allow", here.map((each) => each.verb).join(", "));
    throw refuse("method_not_allowed");
  }
  const body = await readBody(request, response, MAX_BODY_BYTES);
  const params = paramsOf(route.segments, segments) ?? new Map();
  const query = new URLSearchParams(search.join("?"));
  const caller = callContextOf(request, response, requestId);
  const answer = await route.answer({ params, query, body }, caller);
  // Some of these answers show a secret
  response.setHeader("cache-control", "no-store");
  response.setHeader("x-content-type-options", "nosniff");
  if (isDownload(answer)) await sendDownload(response, answer, requestId);
  else sendJson(response, route.status, answer, requestId);
}

const isParam = (segment: string): boolean => /^[:*]/.test(segment);

/** What a path fills in. Undefined where it is not of this pattern. */
function paramsOf(
  pattern: readonly string[],
  segments: readonly string[],
): Map<string, string> | undefined {
  const params = new Map<string, string>();
  for (const [i, each] of pattern.entries()) {
    const given = each.startsWith("*") ? segments.slice(i).join("/") : segments[i];
    if (isParam(each) ? !given : each !== given) return undefined;
    if (isParam(each)) params.set(each.slice(1), given ?? "");
    if (each.startsWith("*")) return params;
  }
  return pattern.length === segments.length ? params : undefined;
}

function decodeSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** What a handler is told of a plain-HTTP request. */
export function callContextOf(
  request: IncomingMessage,
  response: ServerResponse,
  requestId: string,
): CallContext {
  const abort = new AbortController();
  response.on("close", () => {
    if (!response.writableFinished) abort.abort();
  });
  const header = (name: string) => {
    const value = request.headers[name];
    return Array.isArray(value) ? value[0] : value;
  };
  return {
    authorization: request.headers.authorization,
    requestId,
    signal: abort.signal,
    ip: request.socket.remoteAddress ?? "unknown",
    idempotencyKey: header("idempotency-key"),
    header,
    answerHeader: (name, value) => void response.setHeader(name, value),
  };
}

/** A body that is a JSON object; an empty one is {}. @throws invalid_request_error */
export function parseBody(body: Buffer): JsonObject {
  if (body.length === 0) return {};
  let json: JsonValue;
  try {
    json = JSON.parse(body.toString("utf8")) as JsonValue;
  } catch {
    throw refuse("invalid_request_error", { message: "the body is not valid JSON" });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw refuseField("body", "must be a JSON object");
  }
  return json;
}

function setMask<I extends DescMessage>(input: I, message: MessageShape<I>, json: JsonObject) {
  const paths = Object.keys(json);
  if (paths.length === 0) throw refuseField("body", "names no field to change");
  const mask = create(FieldMaskSchema, { paths });
  reflect(input, message).set(fieldOf(input, MASK), reflect(FieldMaskSchema, mask));
}

function fillFromUrl<I extends DescMessage>(
  input: I,
  message: MessageShape<I>,
  { params, query }: RestRequest,
  accepted: readonly string[],
): void {
  const target = reflect(input, message);
  for (const [name, text] of params) setFromText(target, fieldOf(input, name), text);
  const seen = new Set<string>();
  for (const [name, text] of query) {
    if (!accepted.includes(name)) throw refuseField(name, "unknown query parameter");
    if (seen.has(name)) throw refuseField(name, "must be given once");
    seen.add(name);
    setFromText(target, fieldOf(input, name), text);
  }
}

function fieldOf(message: DescMessage, name: string): DescField {
  const field = message.fields.find((each) => each.name === name);
  if (!field) throw new Error(`${message.typeName} has no field ${name}`);
  return field;
}

function spread(output: DescMessage, json: JsonObject): JsonObject {
  const resource = output.fields.find(
    (field) => field.fieldKind === "message" && field.message.typeName !== TimestampSchema.typeName,
  );
  const isList = output.fields.some((field) => field.fieldKind === "list");
  if (!resource || isList) return json;
  const { [resource.name]: inner, ...rest } = json;
  return { ...(inner as JsonObject), ...rest };
}
