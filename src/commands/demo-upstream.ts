import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { startDemoUpstream } from "../inference/demo-upstream.js";
import type { Command } from "./command.js";
import { untilTold } from "./ending.js";

const DONE = 0;
const WRONG_USAGE = 2;

export const command: Command = {
  summary: "serves demo models in the wire format of a real upstream",
  usage: `Usage: keytoll demo-upstream [--port N]

  --port N   port on 127.0.0.1; 0, or none given, means a free one

With KEYTOLL_UPSTREAM_KEY set, callers must show it as their Bearer key.
Models: demo/fast, demo/slow (20 tokens a second), demo/long (as long as it may), demo/thinking and
demo/hidden-thinking (thoughts to read, and such that only cost), demo/vision (images),
demo/embedding, and for trying what goes wrong demo/error-429, demo/busy-at-first, demo/error-500, demo/error-400,
demo/hang, demo/no-usage, demo/usage-twice, demo/zero-usage, demo/cut, demo/garbage.
All that write call tools and answer in JSON where they are told to.`,
  async run(args) {
    const { values } = parseArgs({ args, options: { port: { type: "string", default: "0" } } });
    if (!/^[0-9]{1,5}$/.test(values.port) || Number(values.port) > 65_535) {
      console.error(`keytoll demo-upstream: --port: "${values.port}" is not a port`);
      return WRONG_USAGE;
    }
    const { upstreamKey } = readConfig(process.env);
    const upstream = await startDemoUpstream({
      port: Number(values.port),
      ...(upstreamKey !== undefined && { key: upstreamKey }),
    });
    console.log(`demo upstream on ${upstream.url}`);
    process.send?.({ ready: { url: upstream.url } });
    await untilTold();
    await upstream.close();
    return DONE;
  },
};
