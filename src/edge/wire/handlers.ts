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

/** A method with its handler, answers being whole messages: what each wire serves. */
export type Endpoint =
  | { kind: "unary"; method: DescMethod; call: Call<Message, Message> }
  | { kind: "server_streaming"; method: DescMethod; call: StreamCall<Message, Message> }
  | { kind: "bidi_streaming"; method: DescMethod; call: DuplexCall<Message, Message> };

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
  return found.call as Call<unknown, unknown> as Call<MessageShape<I>, MessageShape<O>>;
}

function endpoint(method: DescMethod, handler: unknown): Endpoint {
  const whole = (answer: unknown) => create(method.output, answer as Record<string, unknown>);
  async function* each(answers: AsyncIterable<unknown>) {
    for await (const answer of answers) yield whole(answer);
  }
  switch (method.methodKind) {
    case "unary": {
      const call = handler as Call<unknown, unknown>;
      return { kind: "unary", method, call: async (i, caller) => whole(await call(i, caller)) };
    }
    case "server_streaming": {
      const call = handler as StreamCall<unknown, unknown>;
      return { kind: "server_streaming", method, call: (i, caller) => each(call(i, caller)) };
    }
    case "bidi_streaming": {
      const call = handler as DuplexCall<unknown, unknown>;
      return { kind: "bidi_streaming", method, call: (i, caller) => each(call(i, caller)) };
    }
    default:
      throw new Error(`${method.parent.typeName}/${method.name}: client streaming is not served`);
  }
}
