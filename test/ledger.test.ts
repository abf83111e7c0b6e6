import { afterEach, beforeEach, expect, test } from "vitest";
import { newId } from "../src/base/ids.js";
import { HOUSE, postTransfer, settlementLag, settleShard } from "../src/ledger/ledger.js";
import {
  aChild,
  anAccount,
  aWorld,
  breakUsage,
  mendUsage,
  use,
  type World,
} from "./workflows/world.js";

let world: World;
beforeEach(async () => {
  world = await aWorld();
});
afterEach(() => world.close());

test("settlement posts each record exactly once, however often and concurrently it runs", async () => {
  const { sql, holds } = world;
  const keys = [];
  for (let i = 0; i < 3; i++) keys.push(await aChild(sql, await anAccount(sql, { shard: 1 })));
  const using = Promise.all(keys.map((key) => use(holds, key, 150)));
  const first = await Promise.all([1, 2, 3, 4].map(() => settleShard(sql, 1, { maxPerPost: 20 })));
  await using;
  const second = await Promise.all([1, 2, 3].map(() => settleShard(sql, 1, { maxPerPost: 40 })));
  const rest = await settleShard(sql, 1);

  const settled = [...first, ...second, rest];
  expect(settled.reduce((sum, it) => sum + it.records, 0)).toBe(450);
  expect(settled.reduce((sum, it) => sum + BigInt(it.amountNgonka), 0n)).toBe(450n * 7n);
  expect(rest).toMatchObject({ behind: 0, oldestSeconds: 0, failed: [] });
  const [posted] = await sql`
    select count(distinct account_id)::int as accounts, sum(to_seq - from_seq + 1)::int as records
      from settlement_post`;
  expect(posted).toEqual({ accounts: 3, records: 450 });
  const [journal] = await sql`
    select sum(amount)::int as amount from transfer
     where kind = 'settlement' and credit_account = ${HOUSE.revenue}`;
  expect(journal?.amount).toBe(450 * 7);
  const accounts = await sql`
    select posted::int, accrued::int, held::int, settled_seq::int from account`;
  expect(accounts).toEqual(
    Array(3).fill({ posted: 1_000_000 - 150 * 7, accrued: 0, held: 0, settled_seq: 150 }),
  );
});

test("each account's chain of posts recomputes from the records, and breaks when one is altered", async () => {
  const { sql, holds } = world;
  const key = await aChild(sql, await anAccount(sql, { shard: 2 }));
  await use(holds, key, 25);
  await settleShard(sql, 2, { maxPerPost: 10 });
  const broken = () => sql<{ no: bigint }[]>`
    select p.no
      from settlement_post p
      join account a on a.id = p.account_id
      left join settlement_post before on before.account_id = p.account_id and before.no = p.no - 1
     cross join lateral usage_digest(p.account_id, p.from_seq, p.to_seq) u
     where p.hash <> post_hash(coalesce(before.hash, decode(repeat('00', 32), 'hex')),
       p.account_id, p.no,
                               p.from_seq, p.to_seq, u.amount, u.digest)
        or (p.no = a.post_no and p.hash <> a.chain)
     order by p.no`;
  expect(
    await sql`select no::int, from_seq::int, to_seq::int from settlement_post order by no`,
  ).toEqual([
    { no: 1, from_seq: 1, to_seq: 10 },
    { no: 2, from_seq: 11, to_seq: 20 },
    { no: 3, from_seq: 21, to_seq: 25 },
  ]);
  expect(await broken()).toEqual([]);

  await sql.unsafe("alter table ended_hold disable trigger append_only");
  await sql`update ended_hold set output_tokens = output_tokens + 1 where usage_seq = 12`;
  expect(await broken()).toEqual([{ no: 2n }]);
  const [changed] = await sql<{ id: string; named: string }[]>`
    select id, changed_records(account_id, 2) as named from ended_hold where usage_seq = 12`;
  expect(changed?.named).toBe(`record 12 (hold ${changed?.id}) was changed`);
  await sql`delete from ended_hold where usage_seq = 12`;
  expect(await sql`select changed_records(id, 2) as named from account where post_no = 3`).toEqual([
    { named: "record 12 is gone" },
  ]);
});

test("an account that cannot be settled is named with its reason and stops no other", async () => {
  const { sql, holds } = world;
  const [bad, good] = [
    await aChild(sql, await anAccount(sql, { shard: 0 })),
    await aChild(sql, await anAccount(sql, { shard: 0 })),
  ];
  await use(holds, bad, 3);
  await use(holds, good, 3);
  await sql.unsafe("alter table ended_hold disable trigger append_only");
  await sql`delete from ended_hold where account_id = ${bad.account} and usage_seq = 2`;

  const settled = await settleShard(sql, 0);
  expect(settled).toMatchObject({ accounts: 1, records: 3, amountNgonka: "21", behind: 3 });
  const reason = expect.stringContaining("has a gap between 1 and 3");
  expect(settled.failed).toMatchObject([{ account: bad.account, reason, attempts: 1 }]);
  expect(await settlementLag(sql)).toMatchObject({ accounts: 1, behind: 3n });
});

test("an account that cannot be settled is tried ever more rarely, and again at once when it is due", async () => {
  const { sql, holds } = world;
  const bad = await aChild(sql, await anAccount(sql, { shard: 0 }));
  await use(holds, bad, 3);
  await breakUsage(sql, bad.account);
  const pauses: number[] = [];
  for (let attempts = 1; attempts <= 9; attempts++) {
    await settleShard(sql, 0);
    const tries: number[] = [];
    const onFailed = () => void tries.push(1);
    await settleShard(sql, 0, { onFailed });
    expect(tries).toEqual([]);
    const [row] = await sql<{ attempts: number; seconds: number }[]>`
      select attempts, extract(epoch from next_at - last_at)::int as seconds
        from settlement_set_aside`;
    expect(row?.attempts).toBe(attempts);
    pauses.push(row?.seconds ?? 0);
    await sql`update settlement_set_aside set next_at = keytoll_clock()`;
  }
  expect(pauses).toEqual([30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);

  await mendUsage(sql, bad.account);
  expect(await settleShard(sql, 0)).toMatchObject({ accounts: 1, records: 3, failed: [] });
  const [row] = await sql`select settled_at is not null as settled from settlement_set_aside`;
  expect(row).toEqual({ settled: true });
});

test("an outage of the database sets no account aside", async () => {
  const { sql, holds } = world;
  const key = await aChild(sql, await anAccount(sql, { shard: 0 }));
  await use(holds, key, 1);
  await sql.unsafe(`
    create or replace function settle_account(p_account uuid, p_max int,
      out records bigint, out amount bigint, out behind bigint) language plpgsql as $$
    begin raise exception 'terminating' using errcode = '57P01'; end $$`);
  await expect(settleShard(sql, 0)).rejects.toThrow("terminating");
  expect(await sql`select from settlement_set_aside`).toEqual([]);
});

test("the same transfer is posted once, and another one under its reference is refused", async () => {
  const { sql } = world;
  const account = await anAccount(sql);
  const transfer = {
    ...{ debit: HOUSE.deposits, credit: account, amount: 5n, at: new Date() },
    ...{ kind: "credit" as const, reference: "payment 1" },
  };
  const post = (change = {}) => sql.begin((tx) => postTransfer(tx, { ...transfer, ...change }));
  const all = await Promise.all([post(), post(), post()]);
  expect(new Set(all.map((it) => it.id)).size).toBe(1);
  expect(all.filter((it) => !it.repeated)).toHaveLength(1);
  for (const change of [{ amount: 6n }, { credit: newId() }, { debit: HOUSE.loss }]) {
    await expect(post(change)).rejects.toMatchObject({ reason: "idempotency_conflict" });
  }
  expect(await sql`select from transfer where reference = 'payment 1'`).toHaveLength(1);
});
