import { cpus } from "node:os";
import { MODEL, openPaidWorld, type PaidWorld } from "./paid-world.js";
import { messageOf } from "./processes.js";
import type { PacedFigures, PacedLoad } from "./streams-load.js";

export interface StreamsBench {
  emptyDatabase: () => Promise<string>;
  /** Streams that are open at once, each of 100 tokens a second. */
  streams: number;
  seconds: number;
  json: boolean;
}

interface Extent {
  streams: number;
  seconds: number;
}

const KEYS = 100;
export const TOKENS_A_SECOND = 100;

/**
 * Opens paced streams through one gateway, all at once, and tells whether each got its tokens at
 * the pace of the upstream, how late they were, and what an open stream takes of memory and of CPU.
 */
export async function benchStreams({ emptyDatabase, streams, seconds, json }: StreamsBench) {
  const world = await openPaidWorld(await emptyDatabase(), KEYS);
  try {
    const direct = await drive(world, { streams, seconds }, world.upstream);
    // What half of them bring into memory is not only theirs, but the first requests' too
    const half = await keptMemory(world, { streams: Math.ceil(streams / 2), seconds });
    const before = world.cpu().gateway;
    const whole = await keptMemory(world, { streams, seconds });
    const used = world.cpu().gateway - before;
    const paid = whole.figures;
    const result = {
      ...{ bench: "streams", cores: cpus().length, streams, seconds, direct, paid },
      kb_per_stream: Math.round((whole.bytes - half.bytes) / 1_024 / (streams / 2)),
      gateway_memory_mb: Math.round(world.memory() / 2 ** 20),
      gateway_cores: Number((used / paid.seconds).toFixed(2)),
    };
    if (!json) report(result);
    return result;
  } finally {
    await world.close();
  }
}

/** What the gateway holds while all streams run: heap and buffers, without garbage. */
async function keptMemory(world: PaidWorld, extent: Extent) {
  let bytes = 0;
  const figures = await drive(world, extent, world.gateway, async () => {
    bytes = await world.kept();
  });
  return { figures, bytes };
}

function report(result: Awaited<ReturnType<typeof benchStreams>>): void {
  const { streams, cores, direct, paid } = result;
  const line = (name: string, { share, p50, p99, failed }: PacedFigures) =>
    console.log(
      `${name.padEnd(24)}${(share * 100).toFixed(1).padStart(6)} % of the tokens in time   late p50 ${p50} ms   p99 ${p99} ms` +
        (failed > 0 ? `   ${failed} FAILED` : ""),
    );
  console.log(`${streams} streams of ${TOKENS_A_SECOND} tokens/s, ${cores} cores shared by all`);
  line("upstream alone", direct);
  line("gateway", paid);
  console.log(
    `gateway: ${result.gateway_cores} cores, ${result.kb_per_stream} KB a stream, ${result.gateway_memory_mb} MB in all`,
  );
}

/** @param opened called once all streams run */
async function drive(
  world: PaidWorld,
  extent: Extent,
  url: string,
  opened = async () => {},
): Promise<PacedFigures> {
  const child = await world.client("./streams-load.ts");
  const body = JSON.stringify({
    model: MODEL,
    messages: [{ role: "user", content: "Tell me a long story." }],
    max_tokens: 4_096,
    stream: true,
    stream_options: { include_usage: true },
  });
  child.send({ ...extent, url, keys: world.keys, body } satisfies PacedLoad);
  await messageOf<{ open: true }>(child);
  const figures = messageOf<{ figures: PacedFigures }>(child);
  await opened();
  return (await figures).figures;
}
