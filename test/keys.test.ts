import { type AddressInfo, connect as connectTo, createServer, type Socket } from "node:net";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { pause } from "../src/base/time.js";
import { connect } from "../src/db/sql.js";
import { Access, KeyService, KeyStatus } from "../src/gen/keytoll/v1/key_pb.js";
import { createKeyring } from "../src/keys/authenticate.js";
import { getChildOfCaller } from "../src/keys/child-keys.js";
import { hashSecret, kindOfSecret, nameOfPepper, newSecret } from "../src/keys/secret.js";
import {
  ADMIN_TOKEN,
  aChild,
  aManagementKey,
  anOwner,
  openDoors,
  PEPPER,
  refusalOf,
} from "./support/doors.js";

const method = KeyService.method;
const DAY = 86_400_000;
const MAX = 9_223_372_036_854_775_807n;
let doors: Awaited<ReturnType<typeof openDoors>>;
let token: string;
let account: string;
let gm: string;
let managementKeyId: string;

beforeAll(async () => {
  doors = await openDoors();
  ({ token, account } = await anOwner(doors));
  ({ gm, managementKeyId } = await aManagementKey(doors, token));
});
afterAll(() => doors.close());
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const inTheFuture = (ms: number) => timestampFromDate(new Date(Date.now() + ms));
const child = (fields = {}) => aChild(doors, token, managementKeyId, fields);
const update = (ref: { childKeyId: string }, paths: string[], fields: object) =>
  doors.call(
    method.updateChildKey,
    { managementKeyId, ...ref, updateMask: { paths }, ...fields },
    token,
  );
const auditOf = (id: string) =>
  doors.sql<{ actor: string; action: string; change: Record<string, unknown> }[]>`
    select actor, action, change from audit_event where subject = ${id} order by id`;

describe("secrets", () => {
  test("a secret is its prefix, 190 random bits and a checksum", () => {
    const secrets = Array.from({ length: 1_000 }, () => newSecret("child"));
    expect(new Set(secrets).size).toBe(1_000);
    for (const secret of secrets) expect(secret).toMatch(/^gc-[0-9A-Za-z]{38}$/);
    expect(kindOfSecret(newSecret("management"))).toBe("management");
    expect(kindOfSecret(newSecret("child"))).toBe("child");
  });

  test("a mistyped, truncated or invented key is refused without a look-up", async () => {
    const { gc } = await child();
    const other = gc[10] === "x" ? "y" : "x";
    const queried = vi.fn();
    const sql = new Proxy(doors.sql, { apply: queried });
    const keyring = createKeyring(sql, [PEPPER]);
    const typos = [
      gc.slice(0, -1),
      `${gc}x`,
      gc.slice(0, 10) + other + gc.slice(11),
      `gm-${gc.slice(3)}`,
      "gc-",
      "",
    ];
    for (const typo of typos) {
      expect((await refusalOf(keyring.find(typo))).reason).toBe("invalid_api_key");
    }
    expect(queried).not.toHaveBeenCalled();
    await expect(keyring.find(gc)).rejects.toThrow();
    expect(queried).toHaveBeenCalled();
    await keyring.stop();
  });

  test("secrets are stored as keyed hashes beside their pepper's name, and stand nowhere else", async () => {
    const { gc, ref } = await child({ expiresAt: inTheFuture(DAY) });
    const rotated = await doors.call(method.rotateChildKey, { ...ref, graceSeconds: 60 }, token);
    const rows = await doors.sql`
      select hash, pepper from key_secret where key_id = ${ref.childKeyId} order by version`;
    expect(rows.map((row) => row.pepper)).toEqual([nameOfPepper(PEPPER), nameOfPepper(PEPPER)]);
    expect(rows[0]?.hash.equals(hashSecret(gc, PEPPER))).toBe(true);

    const tables = ["audit_event", "outbox", "child_key", "management_key", "key_secret", "owner"];
    for (const table of tables) {
      const [{ all }] = (await doors.sql`
        select coalesce(string_agg(t::text, ' '), '') as all
          from ${doors.sql(table)} t`) as never as [{ all: string }];
      for (const secret of [gc, rotated.key, gm, token, PEPPER]) expect(all).not.toContain(secret);
    }
  });

  test("hints show the prefix and the last four characters", async () => {
    const { gc, ref } = await child();
    const { childKey } = await doors.call(method.getChildKey, ref, token);
    expect(childKey?.hint).toBe(`gc-...${gc.slice(-4)}`);
  });
});

describe("authentication", () => {
  test("a child's secret tells the child, its limits and its secret's version", async () => {
    const { gc, ref } = await child({ rateLimitRpm: 30, models: ["demo/fast"] });
    expect(await doors.keyring.find(gc)).toEqual({
      kind: "child",
      account,
      child: ref.childKeyId,
      managementKey: managementKeyId,
      secretVersion: 1,
      rateLimitRpm: 30,
      accountLimits: { rateLimitRpm: null, concurrency: null },
      models: ["demo/fast"],
      costFields: "neutral",
    });
    expect(await doors.keyring.find(gm)).toEqual({
      kind: "management",
      account,
      managementKey: managementKeyId,
      secretVersion: 1,
      access: "read_write",
    });
  });

  test("unknown, disabled, deleted and expired keys get one and the same refusal", async () => {
    const disabled = await child();
    await update(disabled.ref, ["status"], { status: KeyStatus.DISABLED });
    const deleted = await child();
    await doors.call(method.deleteChildKey, deleted.ref, token);
    const expired = await child({ expiresAt: inTheFuture(60_000) });
    await doors.keyring.find(expired.gc);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 60_001 });

    const secrets = [newSecret("child"), disabled.gc, deleted.gc, expired.gc];
    const refusals = await Promise.all(secrets.map((it) => refusalOf(doors.keyring.find(it))));
    for (const refusal of refusals) expect(refusal).toEqual(refusals[0]);
    expect(refusals[0]?.reason).toBe("invalid_api_key");
  });

  test("a cached secret is not looked up again, and a change to its key is seen at once", async () => {
    const { gc, ref } = await child();
    const queried = vi.fn();
    const watched = new Proxy(doors.sql, {
      apply(target, self, args) {
        queried();
        return Reflect.apply(target, self, args);
      },
    });
    const keyring = createKeyring(watched, [PEPPER]);
    await vi.waitFor(async () => {
      queried.mockClear();
      await keyring.find(gc);
      expect(queried).not.toHaveBeenCalled();
    });

    await update(ref, ["status"], { status: KeyStatus.DISABLED });
    await vi.waitFor(() => expect(keyring.find(gc)).rejects.toThrow(), { timeout: 5_000 });
    await update(ref, ["status"], { status: KeyStatus.ACTIVE });
    await vi.waitFor(() => keyring.find(gc), { timeout: 5_000 });
    await keyring.stop();
  });

  test("a change that is told while a secret is being looked up is not overlooked", async () => {
    const { gc, ref } = await child();
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let slow = true;
    let read = false;
    const delayed = new Proxy(doors.sql, {
      apply(target, self, args) {
        const answer = Reflect.apply(target, self, args);
        if (!slow || !String(args[0]).includes("from key_secret")) return answer;
        slow = false;
        return (async () => {
          const rows = await answer;
          read = true;
          await held;
          return rows;
        })();
      },
    });
    const keyring = createKeyring(delayed, [PEPPER]);
    const early = keyring.find(gc);
    await vi.waitFor(() => expect(read).toBe(true));
    await update(ref, ["status"], { status: KeyStatus.DISABLED });
    // Who asks before the news joins the look-up that waits, who asks after it does not
    await vi.waitFor(async () => {
      const late = keyring.find(gc).catch((error) => error.reason);
      expect(await Promise.race([late, pause(100)])).toBe("invalid_api_key");
    });
    release();
    await early;
    await expect(keyring.find(gc)).rejects.toThrow();
    await keyring.stop();
  });

  test("a keyring whose listening connection was cut hears of later changes again", async () => {
    const { gc, ref } = await child();
    const keyring = createKeyring(doors.sql, [PEPPER]);
    const listeners = async () =>
      (
        await doors.sql<{ pid: number }[]>`
        select pid from pg_stat_activity
         where datname = current_database() and query = 'listen "key_changed"'`
      ).map((it) => it.pid);
    await vi.waitFor(async () => expect(await listeners()).toHaveLength(2));
    await keyring.find(gc);

    const before = await listeners();
    await doors.sql`select pg_terminate_backend(pid) from unnest(${before}::int[]) pid`;
    await update(ref, ["status"], { status: KeyStatus.DISABLED });
    await vi.waitFor(() => expect(keyring.find(gc)).rejects.toThrow(), { timeout: 5_000 });
    await vi.waitFor(async () => {
      const after = await listeners();
      expect(after).toHaveLength(2);
      expect(after.some((pid) => before.includes(pid))).toBe(false);
    });
    await keyring.find(gm);
    await doors.call(method.deleteManagementKey, { managementKeyId }, token);
    await vi.waitFor(() => expect(keyring.find(gm)).rejects.toThrow(), { timeout: 5_000 });
    await keyring.stop();
    ({ gm, managementKeyId } = await aManagementKey(doors, token));
  });

  test("a keyring that could not reach Postgres for a while forgets what it may have missed", async () => {
    const { gc, ref } = await child();
    const line = await aLineTo(new URL(doors.url));
    const sql = connect(line.url, { name: "test", max: 1 });
    const keyring = createKeyring(sql, [PEPPER]);
    await vi.waitFor(() => keyring.find(gc));

    line.cut();
    await update(ref, ["status"], { status: KeyStatus.DISABLED });
    await vi.waitFor(() => expect(line.refused()).toBeGreaterThan(1), { timeout: 10_000 });
    line.mend();
    const refusal = await vi.waitFor(() => refusalOf(keyring.find(gc)), { timeout: 10_000 });
    expect(refusal.reason).toBe("invalid_api_key");
    await keyring.stop();
    await sql.end({ timeout: 1 });
    line.close();
  });

  test("secrets made with an older pepper still work beside those of the newest", async () => {
    const { gc } = await child();
    const keyring = createKeyring(doors.sql, ["the next pepper, which is the newest now", PEPPER]);
    expect((await keyring.find(gc)).kind).toBe("child");
    const without = createKeyring(doors.sql, ["the next pepper, which is the newest now"]);
    expect((await refusalOf(without.find(gc))).reason).toBe("invalid_api_key");
    await Promise.all([keyring.stop(), without.stop()]);
  });

  test("children of a management key that is disabled, expired or deleted are refused", async () => {
    const parent = await aManagementKey(doors, token);
    const { gc } = await aChild(doors, token, parent.managementKeyId);
    const change = (paths: string[], fields: object) =>
      doors.call(
        method.updateManagementKey,
        { managementKeyId: parent.managementKeyId, updateMask: { paths }, ...fields },
        token,
      );
    const refused = () =>
      vi.waitFor(() => expect(doors.keyring.find(gc)).rejects.toThrow(), { timeout: 5_000 });
    const works = () => vi.waitFor(() => doors.keyring.find(gc), { timeout: 5_000 });

    await works();
    await change(["status"], { status: KeyStatus.DISABLED });
    await refused();
    await change(["status"], { status: KeyStatus.ACTIVE });
    await works();
    await change(["expires_at"], { expiresAt: inTheFuture(60_000) });
    await works();
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 60_001 });
    await refused();
    vi.useRealTimers();
    await works();
    await doors.call(
      method.deleteManagementKey,
      { managementKeyId: parent.managementKeyId },
      token,
    );
    await refused();
  });
});

describe("rotation", () => {
  test("without a grace period the old secret is refused at once", async () => {
    const { gc, ref } = await child();
    const { key } = await doors.call(method.rotateChildKey, ref, token);
    await vi.waitFor(() => expect(doors.keyring.find(gc)).rejects.toThrow());
    expect(await doors.keyring.find(key)).toMatchObject({ secretVersion: 2 });
  });

  test("with one, the old secret works until it ends, and the one before that no longer", async () => {
    const { gc, ref } = await child();
    const second = await doors.call(method.rotateChildKey, { ...ref, graceSeconds: 60 }, token);
    expect(await doors.keyring.find(gc)).toMatchObject({ secretVersion: 1 });
    expect(await doors.keyring.find(second.key)).toMatchObject({ secretVersion: 2 });

    await doors.call(method.rotateChildKey, { ...ref, graceSeconds: 60 }, token);
    await vi.waitFor(() => expect(doors.keyring.find(gc)).rejects.toThrow());
    await doors.keyring.find(second.key);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 61_000 });
    await expect(doors.keyring.find(second.key)).rejects.toThrow();
  });

  test("a management key rotates itself and goes on with its new secret", async () => {
    const own = await aManagementKey(doors, token);
    const { managementKeyId: id } = own;
    const { key } = await doors.call(method.rotateManagementKey, { managementKeyId: id }, own.gm);
    await vi.waitFor(() => expect(doors.keyring.find(own.gm)).rejects.toThrow());
    const { managementKey } = await doors.call(
      method.getManagementKey,
      { managementKeyId: id },
      key,
    );
    expect(managementKey?.hint).toBe(`gm-...${key.slice(-4)}`);
  });

  test("a grace period is 0 to 30 days", async () => {
    const { ref } = await child();
    for (const graceSeconds of [-1, 30 * 86_400 + 1]) {
      const refusal = await refusalOf(
        doors.call(method.rotateChildKey, { ...ref, graceSeconds }, token),
      );
      expect(refusal).toMatchObject({ reason: "invalid_request_error", param: "grace_seconds" });
    }
  });
});

describe("who may", () => {
  test("a child key cannot administer, the admin neither, and a management key mints no other", async () => {
    const { gc, ref } = await child();
    const calls = [
      doors.call(method.listManagementKeys, {}, gc),
      doors.call(method.getChildKey, ref, gc),
      doors.call(method.listManagementKeys, {}, ADMIN_TOKEN),
      doors.call(method.createManagementKey, { name: "x" }, gm),
    ];
    for (const { reason } of await Promise.all(calls.map(refusalOf)))
      expect(reason).toBe("wrong_key_kind");
  });

  test("a missing, foreign or altered token is invalid_api_key", async () => {
    const altered = `${token.slice(0, -3)}${token.endsWith("AAA") ? "BBB" : "AAA"}`;
    for (const bearer of [undefined, "", "x", altered, newSecret("management")]) {
      const refusal = await refusalOf(doors.call(method.listManagementKeys, {}, bearer));
      expect(refusal.reason).toBe("invalid_api_key");
    }
  });

  test("a token works for 24 hours", async () => {
    const fresh = await anOwner(doors);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + DAY - 10_000 });
    await doors.call(method.listManagementKeys, {}, fresh.token);
    vi.setSystemTime(Date.now() + 11_000);
    const refusal = await refusalOf(doors.call(method.listManagementKeys, {}, fresh.token));
    expect(refusal.reason).toBe("invalid_api_key");
  });

  test("a read-only management key reads and changes nothing", async () => {
    const reader = await aManagementKey(doors, token, Access.READ_ONLY);
    const { ref } = await aChild(doors, token, reader.managementKeyId);
    const { managementKeyId: id, gm: bearer } = reader;
    await doors.call(method.getChildKey, ref, bearer);
    await doors.call(method.listChildKeys, { managementKeyId: id }, bearer);
    const mask = { updateMask: { paths: ["name"] }, name: "x" };
    const calls = [
      doors.call(method.createChildKey, { managementKeyId: id, name: "x" }, bearer),
      doors.call(method.updateChildKey, { ...ref, ...mask }, bearer),
      doors.call(method.deleteChildKey, ref, bearer),
      doors.call(method.rotateChildKey, ref, bearer),
      doors.call(method.updateManagementKey, { managementKeyId: id, ...mask }, bearer),
      doors.call(method.deleteManagementKey, { managementKeyId: id }, bearer),
      doors.call(method.rotateManagementKey, { managementKeyId: id }, bearer),
    ];
    for (const { reason } of await Promise.all(calls.map(refusalOf)))
      expect(reason).toBe("read_only_key");
  });

  test("a management key that was stopped changes nothing, even while a cache still believes in it", async () => {
    const own = await aManagementKey(doors, token);
    const stale = await doors.keyring.find(own.gm);
    await doors.call(method.deleteManagementKey, { managementKeyId: own.managementKeyId }, token);
    const find = vi.spyOn(doors.keyring, "find").mockResolvedValue(stale);
    const fields = { managementKeyId: own.managementKeyId, name: "x" };
    const refusal = await refusalOf(doors.call(method.createChildKey, fields, own.gm));
    expect(find).toHaveBeenCalled();
    expect(refusal.reason).toBe("invalid_api_key");
  });

  test("another owner's key, a sibling's child and an unknown id look the same: not found", async () => {
    const stranger = await anOwner(doors);
    const sibling = await aManagementKey(doors, token);
    const { ref } = await child();
    const unknown = "00000000-0000-7000-8000-000000000000";
    const mask = { updateMask: { paths: ["name"] }, name: "x" };
    const calls = [
      doors.call(method.getManagementKey, { managementKeyId }, stranger.token),
      doors.call(method.updateManagementKey, { managementKeyId, ...mask }, stranger.token),
      doors.call(method.deleteManagementKey, { managementKeyId }, stranger.token),
      doors.call(method.rotateManagementKey, { managementKeyId }, stranger.token),
      doors.call(method.listChildKeys, { managementKeyId }, stranger.token),
      doors.call(method.createChildKey, { managementKeyId, name: "x" }, stranger.token),
      doors.call(method.getChildKey, ref, stranger.token),
      doors.call(method.updateChildKey, { ...ref, ...mask }, stranger.token),
      doors.call(method.deleteChildKey, ref, stranger.token),
      doors.call(method.rotateChildKey, ref, stranger.token),
      doors.call(method.getManagementKey, { managementKeyId }, sibling.gm),
      doors.call(method.getChildKey, ref, sibling.gm),
      doors.call(
        method.getChildKey,
        { ...ref, managementKeyId: sibling.managementKeyId },
        sibling.gm,
      ),
      doors.call(method.deleteChildKey, ref, sibling.gm),
      doors.call(method.getChildKey, { ...ref, childKeyId: unknown }, token),
      doors.call(method.getChildKey, { ...ref, childKeyId: "nonsense" }, token),
    ];
    for (const { reason } of await Promise.all(calls.map(refusalOf)))
      expect(reason).toBe("not_found");
  });

  test("a management key lists itself only, its owner all", async () => {
    const own = await aManagementKey(doors, token);
    const itself = await doors.call(method.listManagementKeys, {}, own.gm);
    expect(itself.data.map((it) => it.id)).toEqual([own.managementKeyId]);
    const all = await doors.call(method.listManagementKeys, {}, token);
    expect(all.data.length).toBeGreaterThan(1);
    expect(all.data[0]?.id).toBe(own.managementKeyId);
  });
});

describe("child keys", () => {
  test("a new child has its fields, full limits, and resets at the next UTC midnight and month", async () => {
    const expiresAt = inTheFuture(DAY);
    const { ref } = await child({
      name: "  Client A  ",
      limitDailyNgonka: 100n,
      limitMonthlyNgonka: 0n,
      limitTotalNgonka: MAX,
      rateLimitRpm: 60,
      expiresAt,
      models: ["demo/fast", "demo/fast"],
      metadata: { plan: "gold" },
    });
    const { childKey } = await doors.call(method.getChildKey, ref, token);
    expect(childKey).toMatchObject({
      name: "Client A",
      status: KeyStatus.ACTIVE,
      limitDailyNgonka: 100n,
      dailyRemaining: 100n,
      limitMonthlyNgonka: 0n,
      monthlyRemaining: 0n,
      limitTotalNgonka: MAX,
      totalRemaining: MAX,
      usedDailyNgonka: 0n,
      rateLimitRpm: 60,
      models: ["demo/fast"],
      metadata: { plan: "gold" },
    });
    const today = new Date();
    const midnight = Date.UTC(today.getUTCFullYear(), today.getUTCMonth(), today.getUTCDate() + 1);
    const month = Date.UTC(today.getUTCFullYear(), today.getUTCMonth() + 1, 1);
    expect(Number(childKey?.dailyResetsAt?.seconds) * 1_000).toBe(midnight);
    expect(Number(childKey?.monthlyResetsAt?.seconds) * 1_000).toBe(month);
    expect(childKey?.expiresAt?.seconds).toBe(expiresAt.seconds);
  });

  test("what is absent is no limit, no expiry and all models", async () => {
    const { ref } = await child();
    const { childKey } = await doors.call(method.getChildKey, ref, token);
    expect(childKey).toMatchObject({ models: [], metadata: {}, requestsTotal: 0n });
    for (const absent of [
      "limitDailyNgonka",
      "dailyRemaining",
      "limitMonthlyNgonka",
      "monthlyRemaining",
      "limitTotalNgonka",
      "totalRemaining",
      "rateLimitRpm",
      "expiresAt",
      "lastUsedAt",
    ] as const) {
      expect(childKey?.[absent]).toBeUndefined();
    }
  });

  test("counters of a past day or month show zero, and remaining is never below zero", async () => {
    const { ref, gc } = await child({ limitDailyNgonka: 100n, limitMonthlyNgonka: 100n });
    const { sql } = doors;
    const read = async () => (await doors.call(method.getChildKey, ref, token)).childKey;
    await sql`update child_key set used_daily = 30, used_monthly = 130, used_total = 130
               where id = ${ref.childKeyId}`;
    expect(await read()).toMatchObject({
      usedDailyNgonka: 30n,
      dailyRemaining: 70n,
      usedMonthlyNgonka: 130n,
      monthlyRemaining: 0n,
    });
    await sql`update child_key set day = day - 1 where id = ${ref.childKeyId}`;
    expect(await read()).toMatchObject({ usedDailyNgonka: 0n, dailyRemaining: 100n });
    await sql`update child_key set month = (month - interval '1 month')::date
               where id = ${ref.childKeyId}`;
    expect(await read()).toMatchObject({
      usedMonthlyNgonka: 0n,
      monthlyRemaining: 100n,
      usedTotalNgonka: 130n,
    });
    const caller = await doors.keyring.find(gc);
    if (caller.kind !== "child") throw new Error("a child key was expected");
    expect(await getChildOfCaller(sql, caller)).toMatchObject({ usedDaily: 0n, usedTotal: 130n });
  });

  test("an update changes what its mask names and nothing else", async () => {
    const { ref } = await child({ limitDailyNgonka: 5n, rateLimitRpm: 9, models: ["a"] });
    const { childKey } = await update(ref, ["limit_daily_ngonka", "name"], {
      name: "renamed",
      limitDailyNgonka: 7n,
      rateLimitRpm: 1,
    });
    expect(childKey).toMatchObject({
      name: "renamed",
      limitDailyNgonka: 7n,
      rateLimitRpm: 9,
      models: ["a"],
    });
    const removed = await update(
      ref,
      ["limit_daily_ngonka", "rate_limit_rpm", "models", "metadata"],
      {},
    );
    expect(removed.childKey).toMatchObject({ models: [], metadata: {}, name: "renamed" });
    expect(removed.childKey?.limitDailyNgonka).toBeUndefined();
    expect(removed.childKey?.rateLimitRpm).toBeUndefined();
  });

  test("every limit that was in force is kept with its beginning, in the account's own time", async () => {
    const { ref } = await child({ limitDailyNgonka: 5n });
    await update(ref, ["name"], { name: "no limit changed" });
    await update(ref, ["limit_daily_ngonka"], { limitDailyNgonka: 6n });
    await update(ref, ["limit_daily_ngonka"], { limitDailyNgonka: 6n });
    await update(ref, ["limit_total_ngonka"], { limitTotalNgonka: 50n });
    const rows = await doors.sql`
      select limit_daily, limit_monthly, limit_total from child_limit
       where child_key_id = ${ref.childKeyId} order by since`;
    expect(rows.map((row) => [row.limit_daily, row.limit_monthly, row.limit_total])).toEqual([
      [5n, null, null],
      [6n, null, null],
      [6n, null, 50n],
    ]);
    const [newest] = await doors.sql`
      select c.updated_at = l.since and l.since <= a.last_at as same
        from child_key c join account a on a.id = c.account_id
        join lateral (select max(since) as since from child_limit
          where child_key_id = c.id) l on true
       where c.id = ${ref.childKeyId}`;
    expect(newest?.same).toBe(true);
  });

  test("changes to one account's keys each get a later time, however many at once", async () => {
    const { ref } = await child({ limitDailyNgonka: 1n });
    await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        update(ref, ["limit_daily_ngonka"], { limitDailyNgonka: BigInt(100 + i) }),
      ),
    );
    const [row] = await doors.sql`
      select count(distinct since)::int as times, count(*)::int as rows from child_limit
       where child_key_id = ${ref.childKeyId}`;
    expect(row).toEqual({ times: 41, rows: 41 });
  });

  test("a later expires_at revives an expired key", async () => {
    const { ref, gc } = await child({ expiresAt: inTheFuture(DAY) });
    await doors.sql`update child_key set expires_at = now() - interval '1 s' where id = ${ref.childKeyId}`;
    const { childKey } = await doors.call(method.getChildKey, ref, token);
    expect(childKey?.status).toBe(KeyStatus.EXPIRED);
    await doors.keyring.evict(ref.childKeyId);
    await expect(doors.keyring.find(gc)).rejects.toThrow();
    const revived = await update(ref, ["expires_at"], { expiresAt: inTheFuture(DAY) });
    expect(revived.childKey?.status).toBe(KeyStatus.ACTIVE);
    await vi.waitFor(() => doors.keyring.find(gc));
  });

  test("an expiry that is set, changed or cleared is told to the job that watches it", async () => {
    const told = async (id: string) =>
      (await doors.sql`select kind from outbox where key = ${id} order by id`).map((it) => it.kind);
    const { ref } = await child();
    expect(await told(ref.childKeyId)).toEqual([]);
    await update(ref, ["expires_at"], { expiresAt: inTheFuture(DAY) });
    await update(ref, ["expires_at"], { expiresAt: inTheFuture(2 * DAY) });
    await update(ref, ["name"], { name: "another" });
    await update(ref, ["expires_at"], {});
    expect(await told(ref.childKeyId)).toEqual(["key_expiry", "key_expiry", "key_expiry"]);

    const { managementKey } = await doors.call(
      method.createManagementKey,
      { name: "x", expiresAt: inTheFuture(DAY) },
      token,
    );
    expect(await told(managementKey?.id ?? "")).toEqual(["key_expiry"]);
  });

  test("deleting is for good, and again the same", async () => {
    const { ref } = await child();
    const first = await doors.call(method.deleteChildKey, ref, token);
    const second = await doors.call(method.deleteChildKey, ref, token);
    expect(first.childKey?.status).toBe(KeyStatus.DELETED);
    expect(second.childKey).toEqual(first.childKey);
    const fields = { status: KeyStatus.ACTIVE };
    expect((await refusalOf(update(ref, ["status"], fields))).reason).toBe("not_found");
    const rotation = doors.call(method.rotateChildKey, ref, token);
    expect((await refusalOf(rotation)).reason).toBe("not_found");
  });

  test("deleting a management key stops its children at once, by one row", async () => {
    const parent = await aManagementKey(doors, token);
    const { ref } = await aChild(doors, token, parent.managementKeyId);
    const [before] = await doors.sql`select updated_at from child_key where id = ${ref.childKeyId}`;
    const { managementKeyId: id } = parent;
    await doors.call(method.deleteManagementKey, { managementKeyId: id }, token);
    await doors.call(method.deleteManagementKey, { managementKeyId: id }, token);
    const { childKey } = await doors.call(method.getChildKey, ref, token);
    expect(childKey?.status).toBe(KeyStatus.DELETED);
    const [after] = await doors.sql`select updated_at from child_key where id = ${ref.childKeyId}`;
    expect(after).toEqual(before);
    const creation = doors.call(method.createChildKey, { managementKeyId: id, name: "x" }, token);
    expect((await refusalOf(creation)).reason).toBe("not_found");
  });

  test("who changed what is on record, and what changed nothing is not", async () => {
    const { ref } = await aChild(doors, gm, managementKeyId, { limitDailyNgonka: 5n });
    await update(ref, ["limit_daily_ngonka"], { limitDailyNgonka: 6n });
    await update(ref, ["limit_daily_ngonka"], { limitDailyNgonka: 6n });
    await doors.call(method.rotateChildKey, ref, gm);
    await doors.call(method.deleteChildKey, ref, token);
    const byKey = `management_key:${managementKeyId}`;
    const events = await auditOf(ref.childKeyId);
    expect(events.map(({ actor, action }) => [actor, action])).toEqual([
      [byKey, "child_key.created"],
      [`owner:${account}`, "child_key.updated"],
      [byKey, "child_key.rotated"],
      [`owner:${account}`, "child_key.deleted"],
    ]);
    expect(events[1]?.change).toEqual({ limitDaily: "6" });
  });
});

describe("lists", () => {
  test("pages show every child once, newest first, and filters choose among them", async () => {
    const { managementKeyId: id } = await aManagementKey(doors, token);
    const refs = [];
    for (let i = 0; i < 7; i++) {
      refs.push((await aChild(doors, token, id, { name: i % 2 ? `Odd_${i}` : `Even ${i}` })).ref);
    }
    const disabled = refs[1]?.childKeyId ?? "";
    const expired = refs[2]?.childKeyId ?? "";
    const { sql } = doors;
    await sql`update child_key set status = 'disabled' where id = ${disabled}`;
    await sql`update child_key set expires_at = now() - interval '1 s' where id = ${expired}`;

    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const init = { managementKeyId: id, limit: 3, ...(cursor && { cursor }) };
      const page = await doors.call(method.listChildKeys, init, token);
      seen.push(...page.data.map((it) => it.id));
      cursor = page.nextCursor;
    } while (cursor);
    expect(seen).toEqual([...new Set(seen)]);
    expect([...seen].sort()).toEqual(refs.map((it) => it.childKeyId).sort());
    expect(seen).toEqual([...seen].sort().reverse());

    const list = async (filter: object) => {
      const page = await doors.call(
        method.listChildKeys,
        { managementKeyId: id, ...filter },
        token,
      );
      return page.data.map((it) => it.id);
    };
    expect(await list({ status: KeyStatus.DISABLED })).toEqual([disabled]);
    expect(await list({ status: KeyStatus.EXPIRED })).toEqual([expired]);
    expect(await list({ status: KeyStatus.ACTIVE })).toHaveLength(5);
    expect(await list({ q: "ODD_" })).toHaveLength(3);
    expect(await list({ q: "%" })).toEqual([]);
    expect(await list({ q: "odd", status: KeyStatus.DISABLED })).toEqual([disabled]);
  });

  test.each([
    [{ limit: 0 }, "limit"],
    [{ limit: 101 }, "limit"],
    [{ limit: -1 }, "limit"],
    [{ cursor: "nonsense" }, "cursor"],
    [{ status: 99 as KeyStatus }, "status"],
    [{ status: KeyStatus.UNSPECIFIED }, "status"],
    [{ q: "x".repeat(101) }, "q"],
    [{ q: "a\u0000b" }, "q"],
  ])("a list refuses %o by the name of the field", async (filter, param) => {
    const call = doors.call(method.listChildKeys, { managementKeyId, ...filter }, token);
    expect(await refusalOf(call)).toMatchObject({ reason: "invalid_request_error", param });
  });
});

describe("wrong input", () => {
  const PAST = timestampFromDate(new Date("2020-01-01"));
  const pairs = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, "v"]));
  const wrong: [object, string][] = [
    [{ name: "" }, "name"],
    [{ name: "   " }, "name"],
    [{ name: "x".repeat(101) }, "name"],
    [{ name: "a\nb" }, "name"],
    [{ name: "a\ud800b" }, "name"],
    [{ limitDailyNgonka: -1n }, "limit_daily_ngonka"],
    [{ limitMonthlyNgonka: -1n }, "limit_monthly_ngonka"],
    [{ limitTotalNgonka: MAX + 1n }, "limit_total_ngonka"],
    [{ rateLimitRpm: 0 }, "rate_limit_rpm"],
    [{ rateLimitRpm: -1 }, "rate_limit_rpm"],
    [{ rateLimitRpm: 1_000_001 }, "rate_limit_rpm"],
    [{ expiresAt: PAST }, "expires_at"],
    [{ expiresAt: { seconds: 1n << 60n, nanos: 0 } }, "expires_at"],
    [{ expiresAt: { seconds: 5_000_000_000n, nanos: -1 } }, "expires_at"],
    [{ models: [""] }, "models[0]"],
    [{ models: ["ok", "x".repeat(201)] }, "models[1]"],
    [{ models: Array.from({ length: 101 }, (_, i) => `m${i}`) }, "models"],
    [{ metadata: pairs }, "metadata"],
    [{ metadata: { "": "v" } }, "metadata"],
    [{ metadata: { [`k${"x".repeat(64)}`]: "v" } }, "metadata"],
    [{ metadata: { k: "x".repeat(513) } }, "metadata.k"],
    [{ metadata: { k: "\u0000" } }, "metadata.k"],
  ];
  const counts = async () =>
    [
      ...(await doors.sql`
        select (select count(*) from child_key) c, (select count(*) from management_key) m,
               (select count(*) from key_secret) s, (select count(*) from audit_event) a,
               (select count(*) from outbox) o, (select count(*) from child_limit) l`),
    ][0];

  test.each(wrong)(
    "a new child with %o is refused, and nothing is changed",
    async (fields, param) => {
      const before = await counts();
      const call = aChild(doors, token, managementKeyId, fields);
      expect(await refusalOf(call)).toMatchObject({ reason: "invalid_request_error", param });
      expect(await counts()).toEqual(before);
    },
  );

  test("the same fields are refused in an update, and nothing is changed", async () => {
    const { ref } = await child();
    const before = [await counts(), await doors.call(method.getChildKey, ref, token)];
    for (const [fields, param] of wrong) {
      const path = param.replace(/[[.].*/, "");
      const refusal = await refusalOf(update(ref, [path], fields));
      expect(refusal).toMatchObject({ reason: "invalid_request_error", param });
    }
    expect([await counts(), await doors.call(method.getChildKey, ref, token)]).toEqual(before);
  });

  test.each([
    [[], {}, "update_mask"],
    [["used_daily_ngonka"], {}, "update_mask"],
    [["constructor"], {}, "update_mask"],
    [["name"], {}, "name"],
    [["status"], {}, "status"],
    [["status"], { status: KeyStatus.DELETED }, "status"],
    [["status"], { status: KeyStatus.EXPIRED }, "status"],
    [["status"], { status: 99 }, "status"],
  ])("an update of %o with %o is refused", async (paths, fields, param) => {
    const { ref } = await child();
    const refusal = await refusalOf(update(ref, paths, fields));
    expect(refusal).toMatchObject({ reason: "invalid_request_error", param });
  });

  test.each([
    [{ name: "" }, "name"],
    [{ name: "x", expiresAt: PAST }, "expires_at"],
    [{ name: "x", access: 99 as Access }, "access"],
  ])("a new management key with %o is refused", async (init, param) => {
    const call = doors.call(method.createManagementKey, init, token);
    expect(await refusalOf(call)).toMatchObject({ reason: "invalid_request_error", param });
  });

  test.each([
    [["access"], {}, "access"],
    [["access"], { access: Access.UNSPECIFIED }, "access"],
    [["name"], { name: " " }, "name"],
    [["expires_at"], { expiresAt: PAST }, "expires_at"],
    [["status"], { status: KeyStatus.DELETED }, "status"],
    [["id"], {}, "update_mask"],
  ])("an update of a management key's %o with %o is refused", async (paths, fields, param) => {
    const init = { managementKeyId, updateMask: { paths }, ...fields };
    const refusal = await refusalOf(doors.call(method.updateManagementKey, init, token));
    expect(refusal).toMatchObject({ reason: "invalid_request_error", param });
  });

  test("a missing id is named", async () => {
    const call = doors.call(method.getChildKey, { managementKeyId }, token);
    expect(await refusalOf(call)).toMatchObject({
      reason: "invalid_request_error",
      param: "child_key_id",
    });
  });
});

/** A way to Postgres that can be cut, counting who is then turned away, and mended. */
async function aLineTo({ hostname, port, pathname, username, password }: URL) {
  const ends = new Set<Socket>();
  let broken = false;
  let refused = 0;
  const line = createServer((near) => {
    if (broken) {
      refused += 1;
      near.resetAndDestroy();
      return;
    }
    const far = connectTo(Number(port), hostname);
    for (const end of [near, far]) ends.add(end.on("error", () => {}));
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => line.listen(0, "127.0.0.1", resolve));
  const { port: own } = line.address() as AddressInfo;
  return {
    url: `postgres://${username}:${password}@127.0.0.1:${own}${pathname}`,
    refused: () => refused,
    cut: () => {
      broken = true;
      for (const end of ends) end.destroy();
    },
    mend: () => {
      broken = false;
    },
    close: () => line.close(),
  };
}
