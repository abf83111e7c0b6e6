import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe } from "vitest";
import { findPython, type PythonTalk } from "../support/python.js";
import { aWorld, type ForeignClient, tryClient, WEATHER } from "./matrix.js";

const python = await findPython(["anthropic==2.14.0"]);
const SCRIPT = fileURLToPath(new URL("anthropic_client.py", import.meta.url));

describe.skipIf(python === undefined)("the Python package", () => {
  const world = aWorld();

  let talk: PythonTalk | undefined;
  beforeAll(() => {
    talk = python?.start(SCRIPT);
  });
  afterAll(() => talk?.stop());

  /** One thing done by the client. Throws its status where it was refused. */
  async function act<T>(does: string, key: string, more: object = {}): Promise<T> {
    const asked = { does, key, url: world().url, model: "demo/fast", ...more };
    const { result, status, error } = (await talk?.ask(asked)) ?? {};
    if (result === undefined) throw Object.assign(new Error(String(error)), { status });
    return result as T;
  }

  const client: ForeignClient = {
    name: "anthropic (Python)",
    route: "POST /v1/messages",
    waits: true,
    believes: true,
    repeats: [],
    models: (secret) => act("models", secret),
    chat: (secret, model) => act("chat", secret, { model }),
    stream: (secret, model, leaveAfter) =>
      act("stream", secret, { model, leave_after: leaveAfter ?? null }),
    tool: (secret, streamed) => act("tool", secret, { streamed, parameters: WEATHER }),
    statusOf: (error) => (error as { status?: number }).status,
  };

  tryClient(client, world);
});
