import type { Credentials, Manager } from "../keys/caller.js";
import { type CommandSources, createCommands } from "./commands.js";
import { createStream, type StreamHandling } from "./stream.js";

export type HoldHandling = CommandSources & Omit<StreamHandling, "commands">;

/** The handlers of HoldService: the money core's own door. */
export function holdHandlers(handling: HoldHandling) {
  const commands = createCommands(handling);

  /** A command as a method of its own. */
  function method<Request, Answer>(
    need: "read" | "write",
    command: (manager: Manager, request: Request) => Promise<Answer>,
  ) {
    return async (request: Request, call: Credentials): Promise<Answer> =>
      await command(await handling.requireOwnerOrManager(call, need), request);
  }

  return {
    authorize: method("write", commands.authorize),
    capture: method("write", commands.capture),
    void: method("write", commands.void),
    extend: method("write", commands.extend),
    getHold: method("read", commands.getHold),
    stream: createStream({ ...handling, commands }),
  };
}
