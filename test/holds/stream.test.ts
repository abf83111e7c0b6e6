import { create } from "@bufbuild/protobuf";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { checkBooks } from "../../src/check/check.js";
import {
  type HoldResult,
  HoldStatus,
  StreamRequestSchema,
} from "../../src/gen/keytoll/v1/hold_pb.js";
import type { Commands } from "../../src/holds/commands.js";
import { createStream } from "../../src/holds/stream.js";
import {
  type Command,
  type HoldStream,
  streamByConnect,
  streamByGrpc,
} from "../support/hold-stream.js";
import { type LiveGateway, startLiveGateway } from "../support/live-gateway.js";

let gateway: LiveGateway;
let owner: { account: string; token: string };
let gm: { id: string; secret: string };
let child: { id: string; secret: string };

beforeAll(async () => {
  gateway = await startLiveGateway();
  owner = await gateway.anOwner("owner@example.com", "1000000000000");
  gm = await gateway.aManagementKey(owner.token);
  child = await gateway.aChild(gm.secret, gm.id);
});
afterAll(() => gateway?.close());

const onOwnPort = (bearer?: string) => streamByGrpc(gateway.grpc, bearer);
const onSharedPort = (bearer?: string) => streamByGrpc(gateway.http.replace("http://", ""), bearer);
const byConnect = (bearer?: string) =>
  streamByConnect(createConnectTransport({ baseUrl: gateway.http, httpVersion: "2" }), bearer);
const byConnectInGrpc = (bearer?: string) =>
  streamByConnect(createGrpcTransport({ baseUrl: `http://${gateway.grpc}` }), bearer);

const CLIENTS: [string, (bearer?: string) => HoldStream][] = [
  ["@grpc/grpc-js on gRPC's port", onOwnPort],
  ["@grpc/grpc-js on the shared port", onSharedPort],
  ["Connect on the shared port", byConnect],
  ["Connect's gRPC on gRPC's port", byConnectInGrpc],
];

const idsOf = (count: number) => Array.from({ length: count }, newId);

const authorize = (holdId: string, amountNgonka = 1_000n, childKeyId = child.id): Command => ({
  case: "authorize",
  value: {
    holdId,
    key: { case: "childKeyId", value: childKeyId },
    size: { case: "amountNgonka", value: amountNgonka },
  },
});
const capture = (holdId: string, costNgonka: bigint): Command => ({
  case: "capture",
  value: { holdId, actual: { case: "costNgonka", value: costNgonka } },
});
const voiding = (holdId: string): Command => ({ case: "void", value: { holdId } });

/** Status and captured amount, or the reason of the refusal with the field at fault. */
function inShort(result: HoldResult["result"]): string {
  if (result.case === "refusal") {
    const { code, reason, metadata } = result.value;
    return `${code} ${reason} ${metadata.param ?? ""}`.trim();
  }
  const { status = 0, capturedNgonka = 0n } = result.value?.hold ?? {};
  return `${HoldStatus[status]} ${capturedNgonka}`;
}

const ask = async (stream: HoldStream, commands: Command[]): Promise<string[]> =>
  (await stream.ask(commands)).map(inShort);

/** What all of an account's holds of these ids came to. */
async function booked(ids: readonly string[]) {
  const [row] = await gateway.sql`
    select (select count(*)::int from open_hold where id = any(${[...ids]})) as open,
           (select count(*)::int from ended_hold where id = any(${[...ids]})) as ended,
           (select coalesce(sum(cost), 0)::bigint from ended_hold
             where id = any(${[...ids]}) and outcome = 'captured') as paid`;
  return row;
}

const accountNow = async () => {
  const answer = await gateway.done("GET /api/account", { bearer: owner.token });
  return { balance: BigInt(`${answer.balance_ngonka}`), held: BigInt(`${answer.held_ngonka}`) };
};

describe.each(CLIENTS)("%s", (_name, open) => {
  test("money is exact through a stream, and a repeat changes nothing, on this stream or another", async () => {
    const before = await accountNow();
    const [captured, voided, left] = [idsOf(100), idsOf(50), idsOf(10)];
    const all = [...captured, ...voided, ...left];
    const paid = captured.reduce((sum, _, i) => sum + BigInt(i), 0n);
    for (let round = 0; round < 2; round++) {
      const stream = open(gm.secret);
      for (let again = 0; again < 2; again++) {
        const held = await stream.ask(all.map((id) => authorize(id)));
        expect(held.map((result) => result.case)).toEqual(all.map(() => "authorize"));
        const ends = [
          ...captured.map((id, i) => capture(id, BigInt(i))),
          ...voided.map((id) => voiding(id)),
        ];
        expect(await ask(stream, ends)).toEqual([
          ...captured.map((_, i) => `CAPTURED ${i}`),
          ...voided.map(() => "VOIDED 0"),
        ]);
      }
      await stream.end();
    }
    const after = await accountNow();
    expect(before.balance - after.balance).toBe(paid);
    expect(after.held - before.held).toBe(10_000n);
    expect(await booked(all)).toEqual({ open: 10, ended: 150, paid });
  });

  test("a bad command among a thousand is refused alone, by its field, and the stream goes on", async () => {
    const stream = open(gm.secret);
    const ids = idsOf(1_000);
    const held = await ask(
      stream,
      ids.map((id, i) => authorize(id, i === 500 ? 0n : 1_000n)),
    );
    const good = ids.map(() => "OPEN 0");
    expect(held).toEqual(good.with(500, "3 INVALID_REQUEST_ERROR amount_ngonka"));
    expect(await booked(ids)).toMatchObject({ open: 999, ended: 0 });
    const ends = await ask(stream, [...ids.map((id) => capture(id, 1n)), { case: undefined }]);
    const paid = ids.map(() => "CAPTURED 1");
    expect(ends).toEqual([
      ...paid.with(500, "5 NOT_FOUND hold_id"),
      "3 INVALID_REQUEST_ERROR command",
    ]);
    await stream.end();
  });

  test("the end of a stream waits for the results of all that was asked", async () => {
    const stream = open(gm.secret);
    const ids = idsOf(500);
    const answers = ask(
      stream,
      ids.map((id) => authorize(id)),
    );
    await stream.end();
    expect(await answers).toEqual(ids.map(() => "OPEN 0"));
  });

  test("a caller whom we do not know is refused as a whole", async () => {
    const code = expect.objectContaining({ code: 16 });
    for (const bearer of [undefined, "gm-nobody", "no key"]) {
      await expect(open(bearer).end()).rejects.toEqual(code);
    }
    const wrongKind = expect.objectContaining({ code: 7 });
    await expect(open(child.secret).end()).rejects.toEqual(wrongKind);
  });

  test("what a cut stream left open is resolved by the same ids on a new one: each hold and each payment once", async () => {
    const before = await accountNow();
    const ids = idsOf(2_000);
    const holds = ids.map((id) => authorize(id));
    const ends = ids.map((id) => capture(id, 7n));
    for (const commands of [holds, ends]) {
      const first = open(gm.secret);
      const cut = Promise.allSettled(
        Array.from({ length: 20 }, (_, i) => first.ask(commands.slice(i * 100, i * 100 + 100))),
      );
      const begun = () => expect(first.answered()).toBeGreaterThan(0);
      await vi.waitFor(begun, { interval: 1, timeout: 20_000 });
      first.cut();
      await cut;
      const second = open(gm.secret);
      const results = await second.ask(commands);
      expect(results.filter(({ case: what }) => what === "refusal")).toEqual([]);
      await second.end();
    }
    expect(await booked(ids)).toEqual({ open: 0, ended: 2_000, paid: 14_000n });
    const after = await accountNow();
    expect(before.balance - after.balance).toBe(14_000n);
    expect(after.held).toBe(before.held);
  }, 60_000);
});

test("a management key that is disabled or rotated is refused on a stream that it opened", async () => {
  for (const stop of ["disable", "rotate"] as const) {
    const other = await gateway.aManagementKey(owner.token);
    const { id: payer } = await gateway.aChild(owner.token, other.id);
    const stream = onOwnPort(other.secret);
    const once = () => ask(stream, [authorize(newId(), 1n, payer)]);
    const open = newId();
    expect(await ask(stream, [authorize(open, 1n, payer)])).toEqual(["OPEN 0"]);
    const path = `/api/management/keys/${other.id}`;
    const bearer = owner.token;
    if (stop === "rotate") {
      await gateway.done(`POST ${path}/rotate`, { bearer, body: { grace_seconds: 0 } });
    } else {
      await gateway.done(`PATCH ${path}`, { bearer, body: { status: "disabled" } });
    }
    const timeout = 10_000;
    const refused = async () => expect(await once()).toEqual(["16 INVALID_API_KEY"]);
    await vi.waitFor(refused, { timeout });
    expect(await ask(stream, [capture(open, 1n)])).toEqual(["16 INVALID_API_KEY"]);
    if (stop === "disable") {
      await gateway.done(`PATCH ${path}`, { bearer, body: { status: "active" } });
      await vi.waitFor(async () => expect(await once()).toEqual(["OPEN 0"]), { timeout });
    }
    await stream.end();
  }
});

test("a caller that takes no results is read no further, and loses none", async () => {
  const stream = onOwnPort(gm.secret);
  expect(await ask(stream, [authorize(newId())])).toEqual(["OPEN 0"]);
  stream.pause();
  const ids = idsOf(20_000);
  const answers: Promise<HoldResult["result"][]>[] = [];
  for (let i = 0; i < ids.length; i += 100) {
    answers.push(stream.ask(ids.slice(i, i + 100).map((id) => authorize(id))));
  }
  // What was begun comes to an end by itself: two looks that see the same
  let seen = -1;
  await vi.waitFor(
    async () => {
      const [before, now] = [seen, (await booked(ids))?.open as number];
      seen = now;
      expect(now).toBe(before);
      expect(now).toBeGreaterThan(100);
    },
    { timeout: 20_000, interval: 1_000 },
  );
  // 16 answers that the client's library takes unasked, of at most what may be under way
  expect(seen).toBeLessThan(18 * 1_024);
  stream.resume();
  const results = (await Promise.all(answers)).flat();
  expect(results.map(inShort)).toEqual(ids.map(() => "OPEN 0"));
  await stream.end();
}, 60_000);

test("at most 1,024 commands of a stream are begun whose results nobody has taken", async () => {
  let begun = 0;
  const manager = { kind: "owner", account: owner.account } as const;
  const stream = createStream({
    commands: { void: async () => ({ hold: { holdId: `${begun++}` } }) } as unknown as Commands,
    requireOwnerOrManager: async () => manager,
    explain: () => ({ code: 0, message: "", errorInfo: undefined }),
  });
  async function* endless() {
    const commands = [voiding(newId())].map((command) => ({ correlation: 1n, command }));
    for (;;) yield create(StreamRequestSchema, { commands });
  }
  const { signal } = new AbortController();
  const answers = stream(endless(), { ip: "127.0.0.1", authorization: "", requestId: "", signal });
  for (let taken = 0, round = 0; round < 5; round++) {
    const { value } = await answers.next();
    await vi.waitFor(() => expect(begun).toBe(taken + 1_024), { timeout: 10_000 });
    taken += value?.results?.length ?? 0;
  }
  await answers.return(undefined);
});

test("a gateway that stops answers what it has read of a stream, ends it, and waits for nothing more", async () => {
  const other = await gateway.startAnother();
  const stream = streamByGrpc(other.grpc, gm.secret);
  const ids = idsOf(100);
  const first = ids.slice(0, 50);
  expect(
    await ask(
      stream,
      first.map((id) => authorize(id)),
    ),
  ).toEqual(first.map(() => "OPEN 0"));
  const rest = stream.ask(ids.slice(50).map((id) => authorize(id)));
  // In half the time after which it would be cut
  await Promise.all([other.close(), Promise.allSettled([rest])]);
  const next = onOwnPort(gm.secret);
  expect(
    await ask(
      next,
      ids.map((id) => authorize(id)),
    ),
  ).toEqual(ids.map(() => "OPEN 0"));
  expect(await booked(ids)).toMatchObject({ open: 100 });
  await next.end();
}, 15_000);

test("what is asked together is held together: one batch, one moment", async () => {
  const stream = onOwnPort(gm.secret);
  const ids = idsOf(200);
  await stream.ask(ids.map((id) => authorize(id)));
  const [row] = await gateway.sql`
    select count(distinct authorized_at)::int as moments from open_hold where id = any(${ids})`;
  expect(row).toEqual({ moments: 1 });
  await stream.end();
});

test("after all of that the books are right", async () => {
  const findings = await checkBooks(gateway.sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
});
