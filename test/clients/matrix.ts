import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { type ClientWorld, printRow, startClientWorld } from "./world.js";

/** The behaviours of a client that nobody here wrote, in its own words inside. */
export interface ForeignClient {
  name: string;
  /** Where its chat completions arrive. */
  route: string;
  /** Ids; absent where the client has no call for it. */
  models?(secret: string): Promise<string[]>;
  embed?(secret: string, texts: string[]): Promise<number[][]>;
  /** The text of an answer in one piece. */
  chat(secret: string, model: string, signal?: AbortSignal): Promise<string>;
  /** The texts of a stream; with `leaveAfter` it is aborted after so many. */
  stream(secret: string, model: string, leaveAfter?: number): Promise<string[]>;
  /** Has the model call a tool, streamed or not, and tells it the answer. */
  tool(secret: string, streamed: boolean): Promise<{ city: unknown; answer: string }>;
  /** The HTTP status of an error that a call ended in. */
  statusOf(error: unknown): number | undefined;
  /** Whether it waits as `Retry-After` says; else it tries again by its own clock. */
  waits: boolean;
  /** Whether it believes `x-should-retry`. */
  believes: boolean;
  /** Definite refusals after which it asks again nonetheless, as it has no means to be told. */
  repeats: readonly number[];
  /** Milliseconds after which it tries again by its own clock, where it is slower than most. */
  slowness?: number;
}

export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", enum: ["Tokyo", "Berlin"] } },
  required: ["city"],
} as const;
/** How long a client that is told to wait is watched. */
const WATCHED_MS = 1_500;
const WAITING = { timeout: 20_000, interval: 10 };
/** Bytes; no door takes more than 10 MiB. */
const TOO_LARGE = 10 * 1024 * 1024;

/**
 * Tries all that a client does against a gateway, counts its requests, and checks the books at the
 * end. Prints what was seen as a row.
 */
export function tryClient(client: ForeignClient, start: () => ClientWorld): void {
  const { name, route } = client;
  const row: Record<string, string> = {};
  const world = () => start();
  const seen = () => world().proxy.statuses(route);
  const forget = () => world().proxy.forget();

  /** The status that a call is refused with. */
  async function refused(secret: string, model = "demo/fast"): Promise<number | undefined> {
    forget();
    const error = await client.chat(secret, model).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    return client.statusOf(error);
  }

  afterAll(() => printRow(name, row));

  test(`${name} lists models`, async () => {
    if (client.models === undefined) {
      row.models = "no such call";
      return;
    }
    const ids = await client.models(world().secrets.good);
    expect(ids).toContain("demo/fast");
    row.models = `${ids.length} models`;
  });

  test(`${name} chats and streams, and each answer is paid once`, async () => {
    const { good, secrets } = world();
    const before = await recordsOf(world(), good.id);
    expect(await client.chat(secrets.good, "demo/fast")).toContain("demo model");
    const texts = await client.stream(secrets.good, "demo/fast");
    expect(texts.join("")).toContain("demo model");
    expect(texts.length).toBeGreaterThan(5);
    const records = (await recordsOf(world(), good.id)).slice(before.length);
    expect(records.map((record) => record.estimated)).toEqual([false, false]);
    Object.assign(row, { chat: "200", stream: `${texts.length} pieces` });
  });

  test(`${name} has tools called, streamed and not, and brings the answers back`, async () => {
    for (const streamed of [false, true]) {
      const { city, answer } = await client.tool(world().secrets.good, streamed);
      expect(city).toBe("Tokyo");
      expect(answer).toContain("sunny");
    }
    row.tools = "called, answered";
  });

  test(`${name} gets vectors`, async () => {
    if (client.embed === undefined) {
      row.embeddings = "no such call";
      return;
    }
    const vectors = await client.embed(world().secrets.good, ["hello", "world"]);
    expect(vectors.map((vector) => vector.length)).toEqual([64, 64]);
    row.embeddings = "2 vectors";
  });

  describe(`${name} is told a definite refusal once`, () => {
    const definite = [
      ["401", "unknown", "demo/fast", 401],
      ["402 limit", "spent", "demo/fast", 402],
      ["402 balance", "poor", "demo/fast", 402],
      ["403", "manager", "demo/fast", 403],
      ["404", "good", "demo/none", 404],
      ["400", "good", "demo/error-400", 400],
    ] as const;
    test.each(definite)("%s", async (cell, who, model, status) => {
      expect(await refused(world().secrets[who], model)).toBe(status);
      expect(seen()).toEqual([status]);
      row[cell] = "1 request";
    });
  });

  describe(`${name} is told once, if it listens, that it must not ask again`, () => {
    test.each([409, 413])("%i", async (status) => {
      const { proxy, secrets } = world();
      proxy.giveKey(randomUUID());
      if (status === 409) await client.chat(secrets.good, "demo/fast");
      const model = status === 409 ? "demo/slow" : "m".repeat(TOO_LARGE);
      forget();
      const leaving = new AbortController();
      const answer = client.chat(secrets.good, model, leaving.signal).catch(client.statusOf);
      const repeats = client.repeats.includes(status);
      if (repeats) await vi.waitFor(() => expect(seen().length).toBe(2), WAITING);
      else expect(await answer).toBe(status);
      leaving.abort();
      proxy.giveKey(undefined);
      expect(seen()[0]).toBe(status);
      expect(seen().length).toBe(repeats ? 2 : 1);
      expect(proxy.seen[0]?.shouldRetry).toBe("false");
      row[status] = repeats ? "asks again, unheeding" : "1 request";
    });
  });

  test(`${name} waits where too many were asked in a minute, and hammers nobody`, async () => {
    const { hurried } = world().secrets;
    forget();
    await client.chat(hurried, "demo/fast");
    const leaving = new AbortController();
    // Some clients wait to the end before they look whether they are still wanted
    client.chat(hurried, "demo/fast", leaving.signal).catch(() => {});
    await vi.waitFor(() => expect(seen()).toContain(429), { timeout: 20_000, interval: 10 });
    const watched = (client.slowness ?? 0) + WATCHED_MS;
    await once(AbortSignal.timeout(watched), "abort");
    leaving.abort();
    expect(seen().slice(0, 2)).toEqual([200, 429]);
    expect(seen().length).toBeLessThanOrEqual(client.waits ? 2 : 3);
    row["429 ours"] = `${seen().length - 1} request in ${watched / 1_000} s`;
  });

  test(`${name} gets its answer from a model that was busy at first`, async () => {
    forget();
    const { good } = world().secrets;
    expect(await client.chat(good, "demo/busy-at-first")).toContain("demo model");
    // Of this key alone: one that had to wait before may only now ask again
    const answers = world().proxy.statuses(route, good);
    expect(answers.at(-1)).toBe(200);
    expect(answers.length).toBeLessThanOrEqual(2);
    row["429 passing"] = answers.join(", ");
  });

  test(`${name} meets a limit that only an open hold fills`, async () => {
    // Room for one answer of the default length at a time
    const { id, secret } = await world().gateway.createChild({ limitTotal: 135_000n });
    const holding = await holdOpen(world(), id, secret);
    forget();
    const answer = client.chat(secret, "demo/fast").catch(client.statusOf);
    await vi.waitFor(() => expect(seen()).toEqual([402]), { timeout: 20_000, interval: 10 });
    holding.abort();
    if (client.believes) expect(await answer).toContain("demo model");
    else expect(await answer).toBe(402);
    row["402 passing"] = seen().join(", ");
  });

  test(`${name} leaves a stream half-way and pays for what was produced`, async () => {
    const { id, secret } = await world().gateway.createChild();
    const texts = await client.stream(secret, "demo/slow", 3);
    expect(texts.length).toBeGreaterThanOrEqual(3);
    await vi.waitFor(
      async () => {
        const [record] = await recordsOf(world(), id);
        expect(record?.estimated).toBe(true);
        expect(Number(record?.output_tokens)).toBeGreaterThanOrEqual(3);
        expect(Number(record?.output_tokens)).toBeLessThan(16);
      },
      { timeout: 10_000, interval: 50 },
    );
    row.abort = "paid for what was produced";
  });

  test(`${name} leaves books that are right`, async () => {
    await world().expectBooks();
    row.books = "right";
  });
}

/** Asks a model that never answers, and so holds an amount until it is aborted. */
async function holdOpen({ gateway }: ClientWorld, child: string, secret: string) {
  const abort = new AbortController();
  fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    signal: abort.signal,
    headers: { authorization: `Bearer ${secret}` },
    body: JSON.stringify({ model: "demo/hang", messages: [{ role: "user", content: "hi" }] }),
  }).catch(() => {});
  await vi.waitFor(async () => {
    const open = await gateway.sql`select 1 from open_hold where child_key_id = ${child}`;
    expect(open).toHaveLength(1);
  });
  return abort;
}

interface UsageRow {
  estimated: boolean;
  output_tokens: bigint;
}

const recordsOf = async ({ gateway }: ClientWorld, child: string): Promise<UsageRow[]> => [
  ...(await gateway.sql<UsageRow[]>`
    select estimated, output_tokens from usage_record
     where child_key_id = ${child} order by usage_seq`),
];

/** Opens a world for the tests of a file. */
export function aWorld(): () => ClientWorld {
  let world: ClientWorld | undefined;
  beforeAll(async () => {
    world = await startClientWorld();
  });
  afterAll(() => world?.close());
  return () => {
    if (world === undefined) throw new Error("the world is not open");
    return world;
  };
}
