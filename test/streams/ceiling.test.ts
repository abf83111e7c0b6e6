import fc from "fast-check";
import { expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { priceOf } from "../../src/base/money.js";
import { createCover } from "../../src/inference/cover.js";
import {
  affordableTokens,
  estimate,
  firstPartOf,
  upstreamBody,
} from "../../src/inference/estimate.js";
import { parseChatRequest } from "../../src/inference/request.js";
import type { Json } from "../../src/inference/values.js";
import type { Price } from "../../src/pricing/prices.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import { expectBooksAreRight } from "../support/books.js";
import { startTestGateway } from "../support/gateway.js";
import { booksOf, chunk, DONE, finish, plays } from "../support/streaming.js";
import { startUpstream } from "../support/upstreams.js";

/** `KT_RUNS=1000000 KT_SEED=5 npm test -- test/streams/ceiling` for a long run, or the same again. */
const RUNS = Number(process.env.KT_RUNS ?? 3_000);
const SEED = Number(process.env.KT_SEED ?? Math.floor(Math.random() * 2 ** 31));
const GATEWAY_RUNS = Math.ceil(RUNS / 50);
const CARDS = 16;

/** How far a model goes of what its card allows: 1 is all of it. */
const share = fc.oneof(fc.constant(1), fc.double({ min: 0, max: 1, noNaN: true }));
const content = fc.oneof(
  fc.string({ unit: "grapheme", maxLength: 60 }),
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.constantFrom("", "\u0000\u0001", "\ud800", '"\\"', "🏳️‍🌈".repeat(20), "東京", "a".repeat(500)),
);
const image = fc
  .oneof(
    fc.constant("https://example.com/a.png"),
    fc.nat(2_000).map((size) => `data:image/png;base64,${"A".repeat(size)}`),
  )
  .map((url) => ({ type: "image_url", image_url: { url } }));
const part = fc.oneof(
  content.map((text) => ({ type: "text", text })),
  image,
);
const message = fc.oneof(
  fc.record({ role: fc.constantFrom("system", "user", "assistant"), content }),
  fc.record({
    role: fc.constant("user"),
    content: fc.array(part, { minLength: 1, maxLength: 4 }),
  }),
);
const tool = fc
  .record({ description: content, value: fc.oneof(fc.double({ noNaN: true }), content) })
  .map(({ description, value }) => ({
    type: "function",
    function: { name: "f", description, parameters: { type: "object", default: value } },
  }));
const asked = fc.record(
  {
    messages: fc.array(message, { minLength: 1, maxLength: 4 }),
    n: fc.integer({ min: 1, max: 5 }),
    max_tokens: fc.integer({ min: 1, max: 9_000 }),
    tools: fc.array(tool, { maxLength: 3 }),
  },
  { requiredKeys: ["messages"] },
);
/** As some clients write them: characters and numbers in their longest or their shortest way. */
const wording = fc.constantFrom<((json: string) => string)[]>(
  (json) => json,
  (json) => json.replaceAll(/(?<=[:,[])(\d)(0{6,20})(?=[,}\]])/g, (_, a, b) => `${a}e${b.length}`),
  (json) =>
    json.replace(
      /[\u0080-\uffff]/g,
      (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, "0")}`,
    ),
);
const mtok = fc.bigInt({ min: 0n, max: 10n ** 9n });
const tokens = (max: number) => fc.option(fc.integer({ min: 1, max }));
const card = fc.record({
  inputPerMtok: mtok,
  outputPerMtok: mtok,
  contextTokens: tokens(20_000),
  maxOutputTokens: tokens(8_192),
  holdStepTokens: tokens(2_000),
  imageTokens: tokens(3_000),
  promptOverheadTokens: fc.option(fc.nat(2_000)),
  defaultMaxTokens: tokens(4_096),
});
const priced = card.map(
  (terms): Price => ({ model: "m", version: 1, since: new Date(0), enabled: true, ...terms }),
);

/**
 * What a model may bill that goes to the edge of its card: a token for each byte that it reads, all
 * of its template, its images' ceiling, and answers as long as they may be, all but a word hidden.
 * Undefined where the prompt does not fit its context.
 */
function billOf(sent: Json, price: Price, [reads, writes]: readonly [number, number]) {
  const messages = sent.messages as Json[];
  const parts = messages.flatMap((it) => (Array.isArray(it.content) ? it.content : []));
  const images = parts.filter((it: Json) => it.type === "image_url").length;
  const rendered = messages.map(({ role, content: said }) => {
    const texts = Array.isArray(said) ? said.map((it: Json) => it.text ?? "") : [said];
    return `<|${role}|>\n${texts.join("")}\n`;
  });
  const tools = sent.tools === undefined ? "" : JSON.stringify(sent.tools);
  const text = Buffer.byteLength(rendered.join("") + tools);
  const overhead = price.promptOverheadTokens ?? 256;
  const most = text + overhead + images * (price.imageTokens ?? 0);
  const input = Math.max(1, Math.floor(reads * most));
  const room = (price.contextTokens ?? Number.POSITIVE_INFINITY) - input;
  if (room < 1) return undefined;
  const each = Math.floor(writes * Math.min(sent.max_tokens as number, room));
  return { input, output: each * ((sent.n as number | undefined) ?? 1) };
}

interface Statistics {
  runs: number;
  refused: number;
  unfit: number;
  images: number;
  shrunk: number;
  grown: number;
  closest: number;
}
const statistics = (): Statistics => ({
  ...{ runs: 0, refused: 0, unfit: 0, images: 0, shrunk: 0, grown: 0, closest: 0 },
});

test(
  `a model that honours its card never bills more than was held (${RUNS} runs, seed ${SEED})`,
  () => {
    const seen = statistics();
    const shares = fc.tuple(share, share);
    const purse = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(asked, wording, priced, shares, purse, (body, worded, price, far, grant) => {
        seen.runs += 1;
        const raw = Buffer.from(worded(JSON.stringify({ model: "m", ...body })));
        let estimated: ReturnType<typeof estimate>;
        const request = parseChatRequest(raw);
        try {
          estimated = estimate(request, price);
        } catch (error) {
          expect(error).toBeInstanceOf(Refusal);
          seen.refused += 1;
          return;
        }
        const { amount, floor, maxTokens } = estimated;
        if (request.images !== undefined) seen.images += 1;
        // As Postgres grants it: as asked, or between the floor and that
        const spare = BigInt(Math.floor(grant * 1_000));
        const granted = floor > 0n ? floor + ((amount - floor) * spare) / 1_000n : amount;
        const may = affordableTokens(estimated, price, request.n, granted);
        if (may < maxTokens) seen.shrunk += 1;
        expect(may).toBeLessThanOrEqual(maxTokens);
        const bill = billOf(JSON.parse(upstreamBody(request, "m", may)), price, far);
        if (bill === undefined) {
          seen.unfit += 1;
          return;
        }
        const cost = priceOf(price, BigInt(bill.input), BigInt(bill.output));
        expect(cost).toBeLessThanOrEqual(granted);
        if (granted > 1n) seen.closest = Math.max(seen.closest, Number((cost * 1_000n) / granted));
      }),
      { numRuns: RUNS, seed: SEED },
    );
    console.log(`ceilings: seed ${SEED}, ${JSON.stringify(seen)}`);
    if (RUNS < 3_000) return;
    for (const [name, count] of Object.entries(seen)) {
      if (name !== "grown") expect(count, name).toBeGreaterThan(0);
    }
    expect(seen.closest).toBeGreaterThan(900);
  },
  Math.max(60_000, RUNS * 10),
);

test(`a hold that grows always pays for what it says, and for the whole answer in the end (seed ${SEED})`, async () => {
  const sizes = fc.record({ bytes: fc.nat(5_000), most: fc.integer({ min: 2, max: 8_000 }) });
  await fc.assert(
    fc.asyncProperty(priced, sizes, fc.integer({ min: 1, max: 5 }), async (price, size, n) => {
      const inputTokens = BigInt(size.bytes);
      const whole = priceOf(price, inputTokens, BigInt(size.most * n));
      const amount = whole > 0n ? whole : 1n;
      const estimated = {
        ...{ amount, floor: 0n, inputTokens, promptTokens: 0, maxTokens: size.most, shortest: 1 },
      };
      const first = firstPartOf(estimated, { ...price, contextTokens: null }, n);
      if (first === undefined) return;
      let parts = 0;
      let reserved = first.amount;
      const holds = {
        async authorize({ amount: more, part: number }: { amount: bigint; part: number }) {
          expect(number).toBe(parts + 1);
          expect(more).toBeGreaterThan(0n);
          parts += 1;
          reserved += more;
          return { amount: more, repeated: null };
        },
      };
      const cover = createCover(
        holds as unknown as Parameters<typeof createCover>[0],
        { part: 0 } as Parameters<typeof createCover>[1],
        first.amount,
        { price, inputTokens, most: size.most * n, step: first.step * n, whole: amount },
      );
      while (cover.tokens !== Number.POSITIVE_INFINITY) {
        expect(priceOf(price, inputTokens, BigInt(cover.tokens))).toBeLessThanOrEqual(reserved);
        const before = cover.tokens;
        await cover.more(new AbortController().signal);
        expect(cover.tokens).toBeGreaterThan(before);
      }
      expect(cover.held).toBe(reserved);
      expect(reserved).toBeGreaterThanOrEqual(amount);
      expect(reserved - amount).toBeLessThanOrEqual(BigInt(parts));
      expect(parts).toBeLessThanOrEqual(1_001);
    }),
    { numRuns: 60, seed: SEED },
  );
}, 60_000);

test(
  `through a real gateway no capture exceeds its hold (${GATEWAY_RUNS} runs, seed ${SEED})`,
  async () => {
    const upstream = await startUpstream(() => {});
    const gateway = await startTestGateway({ upstreamUrl: upstream.url });
    const rich = await gateway.createOwner("rich@example.com", 10n ** 15n);
    const seen = statistics();
    const cards = fc.sample(priced, { seed: SEED, numRuns: CARDS });
    for (const [i, { version: _, since: __, ...terms }] of cards.entries()) {
      await setModelPrice(gateway.sql, { ...terms, model: `card/${i}` });
    }
    await fc.assert(
      fc.asyncProperty(
        asked,
        fc.nat(CARDS - 1),
        fc.tuple(share, share),
        fc.boolean(),
        async (body, i, far, all) => {
          seen.runs += 1;
          const [model, price] = [`card/${i}`, cards[i] as Price];
          upstream.behave((visit) => {
            const bill = billOf(visit.body, price, far);
            if (bill === undefined) return void visit.response.writeHead(400).end("{}");
            // Shown in full, a byte a token, or hidden but for a word where all is held ahead
            const text = "x".repeat(all || price.holdStepTokens !== null ? bill.output : 1);
            const pieces = (text.match(/.{1,40}/g) ?? []).map((it) =>
              chunk([{ index: 0, delta: { content: it }, finish_reason: null }]),
            );
            const ends = Array.from({ length: (visit.body.n as number) ?? 1 }, (_, i) => finish(i));
            const reported = { prompt_tokens: bill.input, completion_tokens: bill.output };
            plays(...pieces, ...ends, chunk([], { usage: reported }), DONE)(visit);
          });
          const { id, secret } = await rich.createChild();
          const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
            method: "POST",
            headers: { authorization: `Bearer ${secret}` },
            body: JSON.stringify({ model, stream: true, ...body }),
          });
          const events = await answer.text();
          const { open, ended, paid } = await booksOf(gateway, id);
          expect(open).toEqual([]);
          if (answer.status !== 200) {
            expect([400, 404]).toContain(answer.status);
            expect(paid).toEqual([]);
            seen.refused += 1;
            return;
          }
          expect(events).toContain("[DONE]");
          if (ended.length > 1) seen.grown += 1;
          expect(paid).toMatchObject([{ estimated: false }]);
        },
      ),
      { numRuns: GATEWAY_RUNS, seed: SEED },
    );
    console.log(`ceilings, real gateway: seed ${SEED}, ${JSON.stringify(seen)}`);
    const losses = await gateway.sql`select * from transfer where kind = 'loss'`;
    expect([...losses]).toEqual([]);
    await expectBooksAreRight(gateway.sql);
    await gateway.close();
    await upstream.close();
  },
  Math.max(120_000, GATEWAY_RUNS * 1_000),
);
