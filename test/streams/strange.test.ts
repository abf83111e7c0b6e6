import { once } from "node:events";
import { request } from "node:http";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { expectBooksAreRight } from "../support/books.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";
import {
  begin,
  booksOf,
  chunk,
  DONE,
  expectPaid,
  finish,
  HI,
  plays,
  streamed,
  text,
  usage,
  writesForEver,
} from "../support/streaming.js";
import { answers, startUpstream, type TestUpstream } from "../support/upstreams.js";

let upstream: TestUpstream;
let gateway: TestGateway;

beforeAll(async () => {
  upstream = await startUpstream(() => {});
  gateway = await startTestGateway({ upstreamUrl: upstream.url });
});
afterAll(async () => {
  await expectBooksAreRight(gateway.sql);
  await gateway.close();
  await upstream.close();
});

const costOf = (input: number, output: number) =>
  priceOf(DEMO_PRICE, BigInt(input), BigInt(output));
/** What we count for a prompt of which nobody reports. */
const counted = (body: object) =>
  Math.ceil(
    JSON.stringify({
      ...{ model: "demo/fast", messages: HI, stream: true },
      ...{ stream_options: { include_usage: true }, ...body },
    }).length / 4,
  );

/** Plays the pieces to a new key. @returns what its caller saw */
async function playedTo(pieces: (string | Buffer)[], body: Record<string, unknown> = {}) {
  const child = await gateway.createChild();
  upstream.behave(plays(...pieces));
  const answer = await streamed(gateway, child.secret, body);
  expect(answer.raw).not.toContain("secret");
  return { ...answer, id: child.id };
}
/** Bytes in buffers that something still holds, in this process: the gateway's among them. */
function buffered(): number {
  setFlagsFromString("--expose-gc");
  runInNewContext("gc")();
  return process.memoryUsage().arrayBuffers;
}
/** An upstream that has failed often is left alone for a while: a good answer makes up for it. */
async function reconciled(): Promise<void> {
  const { secret } = await gateway.createChild();
  upstream.behave(answers());
  await vi.waitFor(async () => expect((await streamed(gateway, secret, {})).status).toBe(200), {
    timeout: 20_000,
  });
}

test("an upstream that dies in mid-stream is paid for what it wrote, and its caller is told", async () => {
  const { id, secret } = await gateway.createChild();
  upstream.behave(({ response }) => {
    begin(response);
    response.write(text("one") + text("two"), () => response.destroy());
  });
  const { text: seen, error, done } = await streamed(gateway, secret, {});
  expect([seen, error?.code, done]).toEqual(["onetwo", "model_unavailable", false]);
  const cost = costOf(counted({}), 2);
  await expectPaid(gateway, id, { cost, output_tokens: 2n, estimated: true });
  await reconciled();
});

test("an upstream that sends no usage is paid by our count, marked as such", async () => {
  const { id, usage: bill, done } = await playedTo([text("x".repeat(40)), finish(), DONE]);
  expect(done).toBe(true);
  const { paid } = await booksOf(gateway, id);
  expect(paid).toMatchObject([{ estimated: true, input_tokens: BigInt(counted({})) }]);
  expect(bill).toMatchObject({ estimated: true, cost_units: `${paid[0]?.cost}` });
  expect(paid[0]?.output_tokens).toBeGreaterThanOrEqual(2n);
  expect(paid[0]?.output_tokens).toBeLessThanOrEqual(14n);
});

test("an upstream that sends usage twice, or with every event, is believed the last time", async () => {
  const report = (completion_tokens: number) => ({
    usage: { prompt_tokens: 9, completion_tokens },
  });
  const running = [1, 2, 3].map((n) =>
    chunk([{ index: 0, delta: { content: `${n}` }, finish_reason: null }], report(n)),
  );
  const twice = await playedTo([...running, finish(), usage(9, 3), usage(10, 4), DONE]);
  expect(twice.text).toBe("123");
  expect(twice.chunks.filter((it) => it.usage)).toHaveLength(1);
  await expectPaid(gateway, twice.id, { cost: costOf(10, 4), estimated: false });

  const early = await playedTo([...running, finish(), DONE]);
  await expectPaid(gateway, early.id, { cost: costOf(9, 3), estimated: false });
});

test("an upstream that reports no tokens at all is paid nothing", async () => {
  const { id, usage: bill } = await playedTo([text("free"), finish(), usage(0, 0), DONE]);
  expect(bill).toMatchObject({ total_tokens: 0, cost_units: "0" });
  await expectPaid(gateway, id, { cost: 0n, input_tokens: 0n, output_tokens: 0n });
});

test("a report that cannot be true is none", async () => {
  for (const bad of [-1, 1.5, "7", null, 1e18]) {
    const report = chunk([], { usage: { prompt_tokens: 1, completion_tokens: bad } });
    const { id } = await playedTo([text("one"), finish(), report, DONE]);
    await expectPaid(gateway, id, { estimated: true });
  }
});

test("a text, a tool call or a name that looks like usage or an end fools nobody", async () => {
  const fakes = [
    '","usage":{"prompt_tokens":0,"completion_tokens":0}',
    '"finish_reason":"stop"',
    '{"usage":{"prompt_tokens":0,"completion_tokens":0}}',
    "data: [DONE]\n\n",
  ];
  const nested = chunk([
    {
      index: 0,
      delta: { tool_calls: [{ index: 0, usage: { prompt_tokens: 0, completion_tokens: 0 } }] },
      usage: { prompt_tokens: 0, completion_tokens: 0 },
      finish_reason: null,
    },
  ]);
  const pieces = [text("so: "), ...fakes.map((it) => text(it)), nested, text("."), finish()];
  const { id, text: seen, finishes } = await playedTo([...pieces, usage(5, 60), DONE]);
  expect(seen).toBe(`so: ${fakes.join("")}.`);
  expect(finishes).toEqual(["stop"]);
  await expectPaid(gateway, id, { cost: costOf(5, 60), estimated: false });
});

test("an error event costs what was written before it, and is told in our words", async () => {
  const error = `data: ${JSON.stringify({ error: { message: "secret-host is out of memory" } })}\n\n`;
  const { id, error: told } = await playedTo([text("one"), error, text("two"), DONE]);
  expect(told?.code).toBe("model_unavailable");
  await expectPaid(gateway, id, { cost: costOf(counted({}), 1), output_tokens: 1n });

  const first = await playedTo([error]);
  expect([first.status, JSON.parse(first.raw).error.code]).toEqual([503, "model_unavailable"]);
  await expectPaid(gateway, first.id);
  await reconciled();
});

test("garbage in a stream costs what was written before it", async () => {
  for (const garbage of ["data: {\n\n", "data: []\n\n", "data: \u0000\n\n", "data: 5\n\n"]) {
    const { id, text: seen, error } = await playedTo([text("one"), garbage, text("two")]);
    expect([seen, error?.code]).toEqual(["one", "model_unavailable"]);
    await expectPaid(gateway, id, { output_tokens: 1n, estimated: true });
  }
  await reconciled();
});

test("an event of more than 1 MiB breaks the stream, one just below passes whole", async () => {
  const large = "x".repeat(1_000_000);
  const passes = await playedTo([text(large), finish(), usage(1, 2), DONE]);
  expect(passes.text).toBe(large);
  await expectPaid(gateway, passes.id, { cost: costOf(1, 2) });

  const { id, text: seen, error } = await playedTo([text("one"), text(large + large)]);
  expect([seen, error?.code]).toEqual(["one", "model_unavailable"]);
  await expectPaid(gateway, id, { output_tokens: 1n });
  await reconciled();
});

test("lines that end in CR LF, characters that are cut and comments between change nothing", async () => {
  const word = "naïve 東京 👩‍💻";
  const all = [
    ": hello\n\n",
    text(word),
    "event: x\nid: 5\n",
    text("ok"),
    finish(),
    usage(3, 9),
    DONE,
  ];
  const bytes = Buffer.from(all.join("").replaceAll("\n", "\r\n"));
  const { id, secret } = await gateway.createChild();
  upstream.behave(async ({ response }) => {
    begin(response);
    for (const byte of bytes) {
      response.write(Buffer.of(byte));
      await new Promise(setImmediate);
    }
    response.end();
  });
  const { text: seen, done } = await streamed(gateway, secret, {});
  expect([seen, done]).toEqual([`${word}ok`, true]);
  await expectPaid(gateway, id, { cost: costOf(3, 9), estimated: false });
});

test("an end that is not told is an end all the same once every answer has finished", async () => {
  const cut = await playedTo([text("a"), text("b", 1), finish(0), finish(1)], { n: 2 });
  expect([cut.done, cut.finishes]).toEqual([true, ["stop", "stop"]]);
  await expectPaid(gateway, cut.id, { estimated: true });
  const silent = await playedTo([text("a"), DONE.trimEnd()]);
  expect(silent.done).toBe(true);
  await expectPaid(gateway, silent.id, { estimated: true });
});

test("an upstream that heeds no max_tokens is cut, and its caller pays for what was asked at most", async () => {
  const { id, secret } = await gateway.createChild();
  const cut = new Promise<void>((resolve) => {
    upstream.behave(({ response }) => void writesForEver(response, text("word ")).then(resolve));
  });
  const { finishes, stop, done, error } = await streamed(gateway, secret, { max_tokens: 5, n: 2 });
  await cut;
  expect([finishes, stop, done, error]).toEqual([["length", "length"], undefined, true, undefined]);
  const cost = costOf(counted({ max_tokens: 5, n: 2 }), 10);
  await expectPaid(gateway, id, { cost, output_tokens: 10n, estimated: true });
});

test("an upstream that writes without ever saying anything is cut by its bytes", async () => {
  const { id, secret } = await gateway.createChild();
  const cut = new Promise<void>((resolve) => {
    const noise = `: ${"x".repeat(64 * 1024)}\n\n`;
    upstream.behave(({ response }) => void writesForEver(response, noise).then(resolve));
  });
  const { status } = await streamed(gateway, secret, { max_tokens: 5 });
  await cut;
  expect(status).toBe(503);
  await expectPaid(gateway, id);
  await reconciled();
});

test("a reader that does not read makes the upstream wait, and little is kept for it", async () => {
  const { id, secret } = await gateway.createChild();
  const piece = text("x".repeat(16 * 1024));
  let written = 0;
  let stalled = false;
  upstream.behave(({ response }) => {
    begin(response);
    const write = () => {
      stalled = false;
      while (response.write(piece)) written += piece.length;
      stalled = true;
    };
    response.on("drain", write);
    write();
  });
  const before = buffered();
  const call = request(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}` },
  });
  const body = { model: "demo/fast", messages: HI, stream: true, max_tokens: 8_192, n: 5 };
  call.end(JSON.stringify(body));
  const [answer] = await once(call, "response");
  answer.pause();
  // The kernel's own buffers fill up too, and then nothing moves any more
  let seen = -1;
  await vi.waitFor(
    () => {
      const moved = written !== seen;
      seen = written;
      expect([stalled, moved]).toEqual([true, false]);
    },
    { timeout: 20_000, interval: 300 },
  );
  // Buffers of what was collected are freed beside us, a little later
  await vi.waitFor(() => expect(buffered() - before).toBeLessThan(8 * 1024 * 1024));
  expect(written).toBeLessThan(32 * 1024 * 1024);
  expect((await booksOf(gateway, id)).open).toHaveLength(1);

  call.destroy();
  await vi.waitFor(async () => {
    const { open, paid } = await booksOf(gateway, id);
    expect([open.length, paid.length]).toEqual([0, 1]);
  });
});
