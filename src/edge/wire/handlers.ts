import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodBiDiStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";

/** What a handler may know about the call beside its message; the same on every wire. */
export interface CallContext {
  /** The raw header or metadata, "Bearer ...". */
  authorization: string | undefined;
  /** UUIDv7 of this call, returned to the caller as `x-request-id`. */
  requestId: string;
  /** Aborts when the caller hangs up or its deadline passes; may also once the call is over. */
  signal: AbortSignal;
  /** Address of the peer of the connection. */
  ip: string;
  idempotencyKey: string | undefined;
  /** Any other header or ASCII metadata, by lower-case name. */
  header(name: string): string | undefined;
  /** Adds a header or metadata to the answer of a unary call, by lower-case name. */
  answerHeader(name: string, value: string): void;
}

/** One request, one answer. Throws a Refusal; anything else becomes "internal error". */
export type Call<I, O> = (request: I, caller: CallContext) => Promise<O>;
/** One request, many answers. Its `finally` runs when the caller hangs up. */
export type StreamCall<I, O> = (request: I, caller: CallContext) => AsyncIterable<O>;
/** Requests and answers as they come. */
export type DuplexCall<I, O> = (
  requests: AsyncIterable<I>,
  caller: CallContext,
) => AsyncIterable<O>;

/**
 * The handler that a method of a service needs: `Handler<typeof KeyService.method.getChildKey>`.
 */
export type Handler<M> =
  M extends DescMethodUnary<infer I, infer O>
    ? Call<MessageShape<I>, MessageInitShape<O>>
    : M extends DescMethodServerStreaming<infer I, infer O>
      ? StreamCall<MessageShape<I>, MessageInitShape<O>>
      : M extends DescMethodBiDiStreaming<infer I, infer O>
        ? DuplexCall<MessageShape<I>, MessageInitShape<O>>
        : never;

/** A handler for each method of a service. */
export type Handlers<S extends DescService> = { [K in keyof S["method"]]: Handler<S["method"][K]> };

/** The fields of a message as a handler gives them: those that are not set may be absent. */
export type Fields = Record<string, unknown>;

/** A method with its handler: what each wire serves. */
export type Endpoint =
  | { kind: "unary"; method: DescMethod; call: Call<Message, Fields> }
  | { kind: "server_streaming"; method: DescMethod; call: StreamCall<Message, Fields> }
  | { kind: "bidi_streaming"; method: DescMethod; call: DuplexCall<Message, Fields> };

export interface Service {
  desc: DescService;
  endpoints: readonly Endpoint[];
}

/** Everything that can be called, once for all wires. */
export type ServiceTable = readonly Service[];

/**
 * Binds handlers to their service. The compiler holds each handler to its method's messages.
 *
 * @throws Error at start for a client-streaming method: none of our doors serves one
 */
export function service<S extends DescService>(desc: S, handlers: Handlers<S>): Service {
  const byName = handlers as Record<string, unknown>;
  return {
    desc,
    endpoints: desc.methods.map((method) => endpoint(method, byName[method.localName])),
  };
}

/** The handler of one method, as the REST routes call it in process. */
export function callOf<I extends DescMessage, O extends DescMessage>(
  services: ServiceTable,
  method: DescMethodUnary<I, O>,
): Call<MessageShape<I>, MessageShape<O>> {
  const found = services
    .find((each) => each.desc.typeName === method.parent.typeName)
    ?.endpoints.find((each) => each.method.name === method.name);
  if (found?.kind !== "unary") {
    throw new Error(`${method.parent.typeName}/${method.name} has no unary handler`);
  }
  const { call } = found;
  return async (request, caller) =>
    create(method.output, (await call(request, caller)) as MessageInitShape<O>);
}

function endpoint(method: DescMethod, handler: unknown): Endpoint {
  switch (method.methodKind) {
    case "unary":
      return { kind: "unary", method, call: handler as Call<Message, Fields> };
    case "server_streaming":
      return { kind: "server_streaming", method, call: handler as StreamCall<Message, Fields> };
    case "bidi_streaming":
      return { kind: "bidi_streaming", method, call: handler as DuplexCall<Message, Fields> };
    default:
      throw new Error(`${method.parent.typeName}/${method.name}: client streaming is not served`);
  }
}
