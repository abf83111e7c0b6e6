import type { IncomingMessage, ServerResponse } from "node:http";
import { refuse, refuseField } from "../../src/base/errors.js";
import { createLog } from "../../src/base/log.js";
import { connectHandler } from "../../src/edge/wire/connect.js";
import { listenGrpc } from "../../src/edge/wire/grpc.js";
import { type CallContext, type ServiceTable, service } from "../../src/edge/wire/handlers.js";
import { listen } from "../../src/edge/wire/listen.js";
import { HoldService, HoldStatus } from "../../src/gen/keytoll/v1/hold_pb.js";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";

export const log = createLog("silent", "test");

/** What the handlers were told of their last call, and how far the endless stream got. */
export interface Seen {
  caller: CallContext | undefined;
  chunks: number;
  streamEnded: boolean;
}

const notFound = async () => {
  throw refuse("not_found");
};

/**
 * Handlers without a database: enough to see what each wire makes of answers, refusals and streams.
 */
export function aTable(seen: Seen): ServiceTable {
  return [
    service(HoldService, {
      async authorize(request, caller) {
        seen.caller = caller;
        if (request.size.case !== "amountNgonka") throw new Error("secret detail");
        if (request.size.value < 0n) throw refuseField("amount_ngonka", "must be positive");
        if (request.size.value > 100n) {
          throw refuse("child_key_limit_exceeded", {
            retryAfter: 1,
            shouldRetry: true,
            facts: { daily_remaining: "100" },
          });
        }
        const { holdId } = request;
        return {
          hold: { holdId, status: HoldStatus.OPEN, amountNgonka: request.size.value },
          remaining: { dailyRemaining: 100n - request.size.value },
        };
      },
      capture: notFound,
      void: notFound,
      extend: notFound,
      getHold: notFound,
      async *stream(requests) {
        for await (const { commands } of requests) {
          yield { results: commands.map(({ correlation }) => ({ correlation })) };
        }
      },
    }),
    service(InferenceService, {
      createChatCompletion: notFound,
      createEmbedding: notFound,
      async *streamChatCompletion({ completion }, caller) {
        const last = completion?.model === "endless" ? Number.MAX_SAFE_INTEGER : 3;
        try {
          for (let i = 1; i <= last; i++) {
            seen.chunks = i;
            yield { id: String(i), model: "x".repeat(completion?.maxTokens ?? 0) };
            if (last > 3 && caller.signal.aborted) return;
          }
          if (completion?.model === "broken") throw refuse("upstream_timeout");
        } finally {
          seen.streamEnded = true;
        }
      },
      listModels: async () => ({ data: [{ id: "m".repeat(11 * 1024 * 1024) }] }),
    }),
  ];
}

/** The table behind every door, on free ports. */
export async function openDoors(
  services: ServiceTable,
  fallback: (request: IncomingMessage, response: ServerResponse) => void,
  headersTimeout = 15_000,
) {
  const host = "127.0.0.1";
  const handler = connectHandler({ services, log, fallback });
  const http = await listen({ port: 0, host, variable: "PORT", handler, headersTimeout });
  const grpc = await listenGrpc({ services, log, port: 0, host });
  return {
    url: `http://${host}:${http.port}`,
    httpPort: http.port,
    grpcAddress: `${host}:${grpc.port}`,
    grpcPort: grpc.port,
    close: (graceMs = 1_000) => Promise.all([http.close(graceMs), grpc.close(graceMs)]),
  };
}
