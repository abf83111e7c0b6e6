import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { pause } from "../src/base/time.js";
import { AdminService } from "../src/gen/keytoll/v1/admin_pb.js";
import { createPriceBook } from "../src/pricing/prices.js";
import { ADMIN_TOKEN, anOwner, openDoors, refusalOf } from "./support/doors.js";

const { setModelPrice, listModelPrices } = AdminService.method;
const MAX = 9_223_372_036_854_775_807n;
const TERMS = { inputNgonkaPerMtok: 1_000n, outputNgonkaPerMtok: 2_000n };
let doors: Awaited<ReturnType<typeof openDoors>>;

beforeAll(async () => {
  doors = await openDoors();
});
afterAll(() => doors.close());

const set = async (model: string, terms: object = TERMS) =>
  (await doors.call(setModelPrice, { model, ...terms }, ADMIN_TOKEN)).modelPrice;

describe("versions", () => {
  test("a change is a new version, the same values are the same version", async () => {
    expect(await set("demo/a")).toMatchObject({ version: 1, enabled: true, ...TERMS });
    expect(await set("demo/a")).toMatchObject({ version: 1 });
    expect(await set("demo/a", { ...TERMS, inputNgonkaPerMtok: 0n })).toMatchObject({ version: 2 });
    expect(await set("demo/a", { ...TERMS, contextTokens: 8_192 })).toMatchObject({ version: 3 });
    expect(await set("demo/a", { ...TERMS, enabled: false })).toMatchObject({ version: 4 });
    expect(await set("demo/a", { ...TERMS, enabled: false })).toMatchObject({ version: 4 });

    const rows = await doors.sql`
      select input_per_mtok from model_price where model = 'demo/a' order by version`;
    expect(rows.map((row) => row.input_per_mtok)).toEqual([1_000n, 0n, 1_000n, 1_000n]);
  });

  test("what holds need to know of a model is part of its version, and absent where it is not set", async () => {
    const more = {
      ...{ holdStepTokens: 512, imageTokens: 1_200 },
      ...{ promptOverheadTokens: 0, defaultMaxTokens: 2_048 },
    };
    expect(await set("demo/more", { ...TERMS, ...more })).toMatchObject({ version: 1, ...more });
    expect(await set("demo/more", { ...TERMS, ...more })).toMatchObject({ version: 1 });
    const without = await set("demo/more", TERMS);
    expect(without).toMatchObject({ version: 2 });
    for (const name of Object.keys(more))
      expect(without).not.toHaveProperty(name, expect.anything());
    const { data } = await doors.call(listModelPrices, {}, ADMIN_TOKEN);
    expect(data.find((price) => price.model === "demo/more")).toMatchObject({ version: 2 });
    const [first] = await doors.sql`
      select hold_step_tokens, image_tokens, prompt_overhead_tokens, default_max_tokens
        from model_price where model = 'demo/more' and version = 1`;
    expect(Object.values(first ?? {})).toEqual([512, 1_200, 0, 2_048]);
  });

  test("many changes at once get a version each", async () => {
    const prices = Array.from({ length: 20 }, (_, i) =>
      set("demo/b", { ...TERMS, inputNgonkaPerMtok: BigInt(i + 1) }),
    );
    const versions = (await Promise.all(prices)).map((price) => price?.version);
    expect([...versions].sort((a = 0, b = 0) => a - b)).toEqual(
      Array.from({ length: 20 }, (_, i) => i + 1),
    );
  });

  test("a change is on record, as the admin's", async () => {
    await set("demo/c");
    await set("demo/c");
    const events = await doors.sql`
      select actor, action, change from audit_event where subject = 'demo/c'`;
    expect([...events]).toEqual([
      {
        actor: "admin",
        action: "model_price.set",
        change: expect.objectContaining({ inputPerMtok: "1000", version: 1 }),
      },
    ]);
  });

  test("the list shows the newest version of each model, by id, disabled ones too", async () => {
    await set("z/last", { ...TERMS, enabled: false });
    await set("a/first");
    const { data } = await doors.call(listModelPrices, {}, ADMIN_TOKEN);
    const models = data.map((price) => price.model);
    expect(models).toEqual([...new Set(models)].sort());
    expect(data.at(-1)).toMatchObject({ model: "z/last", enabled: false });
    expect(data.at(-1)?.contextTokens).toBeUndefined();
  });
});

describe("the price book", () => {
  test("a price is read once and then kept, until a change is told", async () => {
    const before = await set("demo/book");
    const queried = vi.fn();
    const watched = new Proxy(doors.sql, {
      apply(target, self, args) {
        queried();
        return Reflect.apply(target, self, args);
      },
    });
    const book = createPriceBook(watched);
    await vi.waitFor(async () => {
      queried.mockClear();
      const price = await book.find("demo/book");
      expect(price).toMatchObject({ version: before?.version, inputPerMtok: 1_000n });
      expect(queried).not.toHaveBeenCalled();
    });
    await set("demo/book", { ...TERMS, inputNgonkaPerMtok: 7n });
    await vi.waitFor(async () =>
      expect(await book.find("demo/book")).toMatchObject({ version: 2, inputPerMtok: 7n }),
    );
    expect(await book.find("unpriced")).toBeUndefined();
    expect((await book.list()).map((price) => price.model)).toContain("demo/book");
    await book.stop();
  });

  test("a change that is told while the prices are being read is not overlooked", async () => {
    await set("demo/race");
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let slow = true;
    let read = false;
    const delayed = new Proxy(doors.sql, {
      apply(target, self, args) {
        const answer = Reflect.apply(target, self, args);
        if (!slow || !String(args[0]).includes("distinct on")) return answer;
        slow = false;
        return (async () => {
          const rows = await answer;
          read = true;
          await held;
          return rows;
        })();
      },
    });
    const book = createPriceBook(delayed);
    const early = book.find("demo/race");
    await vi.waitFor(() => expect(read).toBe(true));
    await set("demo/race", { ...TERMS, inputNgonkaPerMtok: 9n });
    // A question that joined the first reading waits for it, one after the news does not
    await vi.waitFor(async () =>
      expect(await Promise.race([book.find("demo/race"), pause(100)])).toMatchObject({
        inputPerMtok: 9n,
      }),
    );
    release();
    await early;
    expect(await book.find("demo/race")).toMatchObject({ inputPerMtok: 9n });
    await book.stop();
  });
});

describe("wrong input", () => {
  test.each([
    ["", TERMS, "model"],
    ["a b", TERMS, "model"],
    ["x".repeat(201), TERMS, "model"],
    ["módel", TERMS, "model"],
    ["m", {}, "input_ngonka_per_mtok"],
    ["m", { inputNgonkaPerMtok: 1n }, "output_ngonka_per_mtok"],
    ["m", { ...TERMS, inputNgonkaPerMtok: -1n }, "input_ngonka_per_mtok"],
    ["m", { ...TERMS, outputNgonkaPerMtok: MAX + 1n }, "output_ngonka_per_mtok"],
    ["m", { ...TERMS, contextTokens: 0 }, "context_tokens"],
    ["m", { ...TERMS, maxOutputTokens: -5 }, "max_output_tokens"],
    ["m", { ...TERMS, holdStepTokens: 0 }, "hold_step_tokens"],
    ["m", { ...TERMS, imageTokens: 0 }, "image_tokens"],
    ["m", { ...TERMS, promptOverheadTokens: -1 }, "prompt_overhead_tokens"],
    ["m", { ...TERMS, defaultMaxTokens: 0 }, "default_max_tokens"],
  ])("a price of %o with %o is refused, and nothing is changed", async (model, terms, param) => {
    expect(await refusalOf(set(model, terms))).toMatchObject({
      reason: "invalid_request_error",
      param,
    });
    expect(await doors.sql`select 1 from model_price where model = ${model}`).toHaveLength(0);
  });

  test("only the admin sets and lists prices", async () => {
    const { token } = await anOwner(doors);
    const calls = [
      doors.call(setModelPrice, { model: "m", ...TERMS }, token),
      doors.call(listModelPrices, {}, token),
    ];
    for (const { reason } of await Promise.all(calls.map(refusalOf))) {
      expect(reason).toBe("wrong_key_kind");
    }
  });
});
