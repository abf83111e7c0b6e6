import { create, type DescField, type DescMessage } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { errorFromJsonBytes, errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { refuse, refuseField } from "../../base/errors.js";
import { newId } from "../../base/ids.js";
import { ErrorInfoSchema } from "../../gen/google/rpc/errors_pb.js";

type UnaryHandler = ConnectRouter["handlers"][number];
type Answer = Awaited<ReturnType<UnaryHandler>>;

const UNREADABLE = new ConnectError("the request is not valid", Code.InvalidArgument);

/** What the JSON reader says of a field, and how we say it. */
const PROBLEMS: { says: RegExp; problem: (rest: string) => string }[] = [
  { says: /key "([^"]+)" is unknown()$/, problem: () => "unknown field" },
  { says: /duplicate object key "([^"]+)"()$/, problem: () => "given twice" },
  { says: /^cannot decode oneof [\w.]+\.(\w+) from JSON: (.*)$/s, problem: (rest) => rest },
  { says: /^cannot decode field [\w.]+\.(\w+) from JSON: (.*)$/s, problem: withoutValue },
];

/**
 * Of enums, times and other messages it names only the type: the field is known where it is the
 * only one of it.
 */
const TYPE_ONLY = /^cannot decode (?:enum|message) ([\w.]+) from JSON: /;

/**
 * Gives requests that Connect could not read the same details as every other refusal: they fail
 * before any handler of ours could say why. Replaces the handlers of the router.
 */
export function explainUndecoded({ handlers }: ConnectRouter): void {
  const explained = handlers.map((handler) => {
    const { service, method, requestPath, supportedContentType, protocolNames, allowedMethods } =
      handler;
    const facts = { service, method, requestPath, supportedContentType };
    const call: (...request: Parameters<UnaryHandler>) => Promise<Answer> = async (request) =>
      await explain(await handler(request), method.input);
    return Object.assign(call, { ...facts, protocolNames, allowedMethods });
  });
  handlers.splice(0, handlers.length, ...explained);
}

/**
 * The same for requests of a stream, whose handler meets what Connect could not read.
 *
 * @returns a refusal, or the error as it is where reading was not what failed
 */
export function toReadingRefusal(error: unknown, input: DescMessage): unknown {
  if (!(error instanceof ConnectError)) return error;
  if (error.code === Code.ResourceExhausted) return refuse("request_too_large");
  if (error.code !== Code.InvalidArgument) return error;
  const found = faultOf(error.rawMessage, input);
  if (found) return refuseField(found.param, found.problem);
  return refuse("invalid_request_error", { message: wholeProblem(error) });
}

async function explain(answer: Answer, input: DescMessage): Promise<Answer> {
  const isJson = answer.header?.get("content-type") === "application/json";
  if (answer.status < 400 || !isJson || !answer.header || !answer.body) return answer;
  // A refusal of a handler has its id already, and a compressed one is too long to be a reader's.
  if (answer.header.has("x-request-id") || answer.header.has("content-encoding")) return answer;

  const chunks: Uint8Array[] = [];
  for await (const chunk of answer.body) chunks.push(chunk);
  const said = errorFromJsonBytes(Buffer.concat(chunks), undefined, UNREADABLE);
  const requestId = newId();
  const bytes = errorToJsonBytes(inOurWords(said, input, requestId), undefined);
  answer.header.set("x-request-id", requestId);
  answer.header.set("content-length", String(bytes.byteLength));
  return { ...answer, body: once(bytes) };
}

function inOurWords(said: ConnectError, input: DescMessage, requestId: string): ConnectError {
  const metadata: Record<string, string> = { request_id: requestId };
  const found = faultOf(said.rawMessage, input);
  if (found) metadata.param = found.param;
  const message = found ? `${found.param}: ${found.problem}` : wholeProblem(said);
  const tooLarge = said.code === Code.ResourceExhausted;
  const reason = tooLarge ? "REQUEST_TOO_LARGE" : "INVALID_REQUEST_ERROR";
  const error = new ConnectError(message, said.code);
  const value = create(ErrorInfoSchema, { reason, domain: "keytoll", metadata });
  error.details.push({ desc: ErrorInfoSchema, value });
  return error;
}

function faultOf(
  message: string,
  input: DescMessage,
): { param: string; problem: string } | undefined {
  for (const { says, problem } of PROBLEMS) {
    const [, param, rest = ""] = says.exec(message) ?? [];
    if (param !== undefined) return { param, problem: problem(rest) };
  }
  const [, type] = TYPE_ONLY.exec(message) ?? [];
  const fields = input.fields.filter((field) => typeOf(field) === type);
  const [field] = fields;
  const onlyOne = type !== undefined && field !== undefined && fields.length === 1;
  return onlyOne ? { param: field.name, problem: "is not valid" } : undefined;
}

/** What was expected, without what came: that may be a password or a prompt in the wrong place. */
function withoutValue(problem: string): string {
  const [, expected] = /^(?:map entry .*: )?(expected \w+(?: \(\w+\))?)/s.exec(problem) ?? [];
  if (expected === undefined) return "is not valid";
  return problem.endsWith("out of range") ? `${expected} within its range` : expected;
}

/** JSON's reader quotes what it could not read, so its words are not passed on. */
const wholeProblem = ({ code, rawMessage }: ConnectError): string =>
  code === Code.InvalidArgument ? "the body is no valid JSON or protobuf message" : rawMessage;

const typeOf = ({ enum: words, message }: DescField) => (words ?? message)?.typeName;

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}
