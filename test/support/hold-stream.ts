import { PassThrough } from "node:stream";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { newId } from "../../src/base/ids.js";
import {
  type HoldCommandSchema,
  type HoldResult,
  HoldService,
  type StreamRequest,
  StreamRequestSchema,
  type StreamResponse,
  StreamResponseSchema,
} from "../../src/gen/keytoll/v1/hold_pb.js";

export type Command = NonNullable<MessageInitShape<typeof HoldCommandSchema>["command"]>;

/** A stream of HoldService, by any client. */
export interface HoldStream {
  /** Sends commands as one request. @returns their results, in the commands' order */
  ask(commands: Command[]): Promise<HoldResult["result"][]>;
  /** How many results have come. */
  answered(): number;
  /** Says that no command follows. @returns once the other side has ended the stream too */
  end(): Promise<void>;
  /** Leaves without a word. What is unanswered rejects. */
  cut(): void;
  /** Takes no results until `resume`; for clients that can. */
  pause(): void;
  resume(): void;
}

interface Line {
  write(request: StreamRequest): void;
  end(): void;
  cut(): void;
  pause(): void;
  resume(): void;
}

type Ears = {
  heard: (response: StreamResponse) => void;
  ended: (error?: Error) => void;
};

/** The stream over a line that hears by `ears`. */
function streamOver(open: (ears: Ears) => Line): HoldStream {
  const waiting = new Map<bigint, PromiseWithResolvers<HoldResult["result"]>>();
  const over = resolvers<void>();
  let [sent, answered] = [0n, 0];
  const line = open({
    heard({ results }) {
      for (const { correlation, result } of results) {
        answered += 1;
        waiting.get(correlation)?.resolve(result);
        waiting.delete(correlation);
      }
    },
    ended(error) {
      for (const { reject } of waiting.values()) reject(error ?? new Error("ended unanswered"));
      if (error) over.reject(error);
      else over.resolve();
    },
  });
  over.promise.catch(() => {});
  return {
    ...line,
    answered: () => answered,
    async ask(asked) {
      const commands = asked.map((command) => ({ correlation: ++sent, command }));
      const answers = commands.map(({ correlation }) => {
        const answer = resolvers<HoldResult["result"]>();
        waiting.set(correlation, answer);
        return answer.promise;
      });
      line.write(create(StreamRequestSchema, { commands }));
      return await Promise.all(answers);
    },
    async end() {
      line.end();
      await over.promise;
    },
  };
}

interface PromiseWithResolvers<T> {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
}

function resolvers<T>(): PromiseWithResolvers<T> {
  let resolve: (value: T) => void = () => {};
  let reject: (error: unknown) => void = () => {};
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

/** By @grpc/grpc-js, on a connection of its own. */
export function streamByGrpc(address: string, bearer: string | undefined): HoldStream {
  // Clients of one process share connections to one address unless they differ
  const client = new Client(address, credentials.createInsecure(), { "user-agent": newId() });
  const metadata = new Metadata();
  if (bearer !== undefined) metadata.set("authorization", `Bearer ${bearer}`);
  return streamOver(({ heard, ended }) => {
    const call = client.makeBidiStreamRequest<StreamRequest, StreamResponse>(
      "/keytoll.v1.HoldService/Stream",
      (request) => Buffer.from(toBinary(StreamRequestSchema, request)),
      (bytes) => fromBinary(StreamResponseSchema, bytes),
      metadata,
    );
    const close = (error?: Error) => {
      ended(error);
      client.close();
    };
    call.on("data", heard);
    call.on("end", () => close());
    call.on("error", close);
    return {
      write: (request) => void call.write(request),
      end: () => void call.end(),
      cut: () => call.cancel(),
      pause: () => void call.pause(),
      resume: () => void call.resume(),
    };
  });
}

/** By a client of Connect, in its own protocol or in gRPC's. */
export function streamByConnect(transport: Transport, bearer: string | undefined): HoldStream {
  return streamOver(({ heard, ended }) => {
    const requests = new PassThrough({ objectMode: true });
    const abort = new AbortController();
    const headers = { ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }) };
    const options = { headers, signal: abort.signal };
    const listen = async () => {
      const { stream } = createClient(HoldService, transport);
      for await (const response of stream(requests, options)) heard(response);
    };
    listen().then(() => ended(), ended);
    const never = () => {
      throw new Error("this client cannot pause");
    };
    return {
      write: (request) => void requests.write(request),
      end: () => void requests.end(),
      cut: () => abort.abort(),
      pause: never,
      resume: never,
    };
  });
}
