import type { MessageInitShape } from "@bufbuild/protobuf";
import { refuseField } from "../base/errors.js";
import type {
  HoldCommand,
  HoldResultSchema,
  StreamRequest,
  StreamResponseSchema,
} from "../gen/keytoll/v1/hold_pb.js";
import type { Credentials, Manager } from "../keys/caller.js";
import type { Commands } from "./commands.js";

/**
 * Commands of one stream that were read and whose results the caller has not taken yet. About a
 * batch: more would only wait.
 */
const MAX_UNDER_WAY = 1_024;

interface StreamCall extends Credentials {
  /** Aborts when nobody waits for results any more. */
  signal: AbortSignal;
  requestId: string;
}

export interface StreamHandling {
  commands: Commands;
  requireOwnerOrManager(shown: Credentials, need: "read" | "write"): Promise<Manager>;
  /** Puts an error into the words of RPC. */
  explain(error: unknown, call: StreamCall): Failure;
}

/** A command that failed, as its method of its own would have. */
export interface Failure {
  code: number;
  message: string;
  /** Absent where nobody waits for it. */
  errorInfo: { reason: string; metadata: Record<string, string> } | undefined;
}

type Result = MessageInitShape<typeof HoldResultSchema>;
type Response = MessageInitShape<typeof StreamResponseSchema>;

/**
 * Serves a stream of commands. The credential is checked again for each request, on the keyring
 * that the other methods ask too, so that it stops working here when it does there. What one
 * request brings enters the money core together, and what a batch of it answers leaves together.
 */
export function createStream(handling: StreamHandling) {
  const { requireOwnerOrManager } = handling;
  return async function* stream(
    requests: AsyncIterable<StreamRequest>,
    call: StreamCall,
  ): AsyncGenerator<Response> {
    await requireOwnerOrManager(call, "write");
    const desk = createDesk();
    const reading = readAll(handling, requests, call, desk);
    // Told at the end of the stream, or to nobody
    reading.catch(() => {});
    const hangUp = () => desk.close();
    call.signal.addEventListener("abort", hangUp, { once: true });
    try {
      for (let results = await desk.take(); results; results = await desk.take()) {
        yield { results };
        // Asked for more: the caller's side has room again
        desk.taken(results.length);
      }
      if (desk.isFinished()) await reading;
    } finally {
      call.signal.removeEventListener("abort", hangUp);
      desk.close();
    }
  };
}

/** Starts what is asked for as long as there is room. @throws what the requests end with */
async function readAll(
  handling: StreamHandling,
  requests: AsyncIterable<StreamRequest>,
  call: StreamCall,
  desk: Desk,
): Promise<void> {
  const authenticate = () => {
    const manager = handling.requireOwnerOrManager(call, "write");
    // Each command waits for it, and is told where it fails
    manager.catch(() => {});
    return manager;
  };
  try {
    for await (const { commands } of requests) {
      let manager = authenticate();
      for (const command of commands) {
        if (!desk.hasRoom()) {
          if (!(await desk.room())) return;
          manager = authenticate();
        }
        desk.started();
        void resultOf(handling, manager, command, call).then(desk.put);
      }
    }
  } finally {
    desk.finish();
  }
}

async function resultOf(
  handling: StreamHandling,
  manager: Promise<Manager>,
  { correlation, command }: HoldCommand,
  call: StreamCall,
): Promise<Result> {
  try {
    return { correlation, result: await run(handling.commands, await manager, command) };
  } catch (error) {
    const { code, message, errorInfo } = handling.explain(error, call);
    const { reason, metadata } = errorInfo ?? { reason: "", metadata: {} };
    return { correlation, result: { case: "refusal", value: { code, reason, message, metadata } } };
  }
}

async function run(
  commands: Commands,
  manager: Manager,
  command: HoldCommand["command"],
): Promise<NonNullable<Result["result"]>> {
  switch (command.case) {
    case "authorize":
      return { case: "authorize", value: await commands.authorize(manager, command.value) };
    case "capture":
      return { case: "capture", value: await commands.capture(manager, command.value) };
    case "void":
      return { case: "void", value: await commands.void(manager, command.value) };
    case "extend":
      return { case: "extend", value: await commands.extend(manager, command.value) };
    default:
      throw refuseField("command", "is required");
  }
}

type Desk = ReturnType<typeof createDesk>;

/** Where results wait for the caller, and the reader of requests for room. */
function createDesk() {
  let ready: Result[] = [];
  let underWay = 0;
  let unanswered = 0;
  let finished = false;
  let closed = false;
  let wakeTaker = () => {};
  let wakeReader = () => {};

  return {
    hasRoom: () => underWay < MAX_UNDER_WAY && !closed,
    /** Waits for room. @returns false where the stream has closed meanwhile */
    async room(): Promise<boolean> {
      while (underWay >= MAX_UNDER_WAY && !closed) {
        await new Promise<void>((resolve) => {
          wakeReader = resolve;
        });
      }
      return !closed;
    },
    started(): void {
      underWay += 1;
      unanswered += 1;
    },
    put(result: Result): void {
      unanswered -= 1;
      ready.push(result);
      wakeTaker();
    },
    /** All results that are ready, or the next that will be; undefined once none can follow. */
    async take(): Promise<Result[] | undefined> {
      while (ready.length === 0 && !closed && !(finished && unanswered === 0)) {
        await new Promise<void>((resolve) => {
          wakeTaker = resolve;
        });
        // A batch answers all its calls in this turn: they leave together
        await new Promise(setImmediate);
      }
      if (closed || ready.length === 0) return undefined;
      const results = ready;
      ready = [];
      return results;
    },
    taken(count: number): void {
      underWay -= count;
      wakeReader();
    },
    isFinished: () => finished,
    /** No command follows. */
    finish(): void {
      finished = true;
      wakeTaker();
    },
    /** Nobody takes results any more. What is under way goes on, and is there for a retry. */
    close(): void {
      closed = true;
      wakeTaker();
      wakeReader();
    },
  };
}
