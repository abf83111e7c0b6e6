import { expect, test } from "vitest";
import { type Reason, refuse } from "../../src/base/errors.js";
import type { HoldRequest } from "../../src/holds/holds.js";
import { createCover } from "../../src/inference/cover.js";
import type { Price } from "../../src/pricing/prices.js";

const PRICE: Price = {
  ...{ model: "m", version: 1, since: new Date(0), enabled: true },
  ...{ inputPerMtok: 1_000_000n, outputPerMtok: 1_000_000n, contextTokens: null },
  ...{ maxOutputTokens: null, holdStepTokens: 100, imageTokens: null },
  ...{ promptOverheadTokens: null, defaultMaxTokens: null },
};
const never = new AbortController().signal;

/** A cover of 100 of 1,000 tokens, whose further parts are answered by these, then all granted. */
function coverOn(...answers: Reason[]) {
  const asked: HoldRequest[] = [];
  const holds = {
    async authorize(request: HoldRequest) {
      asked.push(request);
      const reason = answers.shift();
      if (reason !== undefined) throw refuse(reason);
      const remaining = { daily: null, monthly: null, total: null };
      const times = { authorizedAt: new Date(0), deadline: new Date(0) };
      return { amount: request.amount, ...times, remaining, repeated: null };
    },
  };
  const first: HoldRequest = {
    ...{ account: "a", child: "c", id: "i", part: 0, amount: 110n, floor: 50n, secretVersion: 3 },
    ...{ seconds: 120, fingerprint: 7n, own: true, model: "m", priceVersion: 1 },
  };
  const growth = { price: PRICE, inputTokens: 10n, most: 1_000, step: 100, whole: 1_010n };
  return { asked, first, cover: createCover(holds, first, 110n, growth) };
}

test("each part is a further one of the same hold, asked for once however often it is wanted", async () => {
  const { asked, first, cover } = coverOn();
  for (let i = 0; i < 5; i++) cover.ask();
  await cover.settled();
  cover.ask();
  await cover.settled();
  expect(asked).toEqual([1, 2].map((part) => ({ ...first, part, amount: 100n, floor: 0n })));
  expect([cover.tokens, cover.soon, cover.held]).toEqual([300, 250, 310n]);
});

test("a part that is refused for want of money is asked for again only when it is needed", async () => {
  const { asked, cover } = coverOn("child_key_limit_exceeded", "child_key_limit_exceeded");
  for (let i = 0; i < 3; i++) {
    cover.ask();
    await cover.settled();
  }
  expect([asked.length, cover.refusal, cover.tokens]).toEqual([1, undefined, 100]);
  await expect(cover.more(never)).rejects.toMatchObject({ reason: "child_key_limit_exceeded" });
  await cover.more(never);
  expect(asked.map(({ part }) => part)).toEqual([1, 1, 1]);
  expect(cover.tokens).toBe(200);
});

test("a key that is stopped may not even use what is held, and that is told at once", async () => {
  const { cover } = coverOn("invalid_api_key");
  let told = 0;
  cover.onRefused(() => void told++);
  cover.ask();
  await cover.settled();
  expect([told, cover.refusal?.reason]).toEqual([1, "invalid_api_key"]);
  await expect(cover.more(never)).rejects.toMatchObject({ reason: "invalid_api_key" });
});

test("a database that is away for a moment ends no stream, and a caller who has gone does not wait", async () => {
  const { asked, cover } = coverOn("not_ready", "busy");
  await cover.more(never);
  expect(asked.map(({ part }) => part)).toEqual([1, 1, 1]);
  const gone = new AbortController();
  gone.abort(new Error("gone"));
  await expect(cover.more(gone.signal)).rejects.toThrow("gone");
});
