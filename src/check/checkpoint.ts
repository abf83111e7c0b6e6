import { type Db, only, type Sql, type Tx } from "../db/sql.js";
import type { Scope } from "./invariant.js";
import { newestCheckpoint } from "./scope.js";

/**
 * What the noted sums hash to. A row's text is hashed first, so that a million rows make 32 MB.
 */
const DIGEST = `
  select sha256(coalesce((select string_agg(sha256(convert_to(a::text, 'UTF8')), '' order by account_id)
                            from proof_account a), '')
             || coalesce((select string_agg(sha256(convert_to(c::text, 'UTF8')), '' order by child_key_id)
                            from proof_child c), '')) as digest`;

/** A problem where the newest checkpoint does not say what it said when it was noted. */
export async function checkpointProblem(tx: Db): Promise<string[]> {
  const newest = await newestCheckpoint(tx);
  if (!newest) return [];
  const { same } = only(
    await tx<{ same: boolean }[]>`
      select d.digest = decode(${newest.digest}, 'hex') as same
        from (${tx.unsafe(DIGEST)}) d`,
  );
  return same ? [] : [`checkpoint ${newest.no} was changed after it was noted`];
}

const SERIALIZATION = "40001";
const NOT_ALLOWED = "42501";

/**
 * Notes what a green pass has proved, as it stood in the pass's snapshot: the counters, which are
 * what the rows say, and how far time, usage and posts had come.
 *
 * @param snapshot of the pass, which is still open
 * @returns its number; undefined where another pass noted one meanwhile, or the login may not
 */
export async function noteCheckpoint(
  sql: Sql,
  scope: Scope,
  snapshot: string,
): Promise<bigint | undefined> {
  try {
    return (await sql.begin("isolation level repeatable read", async (tx) => {
      await tx.unsafe(`set transaction snapshot '${snapshot}'`);
      return await note(tx, scope);
    })) as bigint;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === SERIALIZATION || code === NOT_ALLOWED) return undefined;
    throw error;
  }
}

async function note(tx: Tx, scope: Scope): Promise<bigint> {
  const before = await newestCheckpoint(tx);
  const { day } = only(
    await tx<{ day: string }[]>`
      select coalesce(max(period) - 1, '-infinity')::text as day from period_reset
       where kind = 'day' and finished_at is not null`,
  );
  await noteAccounts(tx, day);
  await noteChildren(tx);
  const holds = scope.holds + (scope.whole ? await detachedHolds(tx) : (before?.holds ?? 0n));
  const { no } = only(
    await tx<{ no: bigint }[]>`
      insert into proof (taken_at, whole, id_floor, rolled_day, holds, digest)
      select keytoll_clock(), ${scope.whole},
             least(first_id_of(keytoll_clock() - interval '25 hours'),
                   (select id from open_hold order by id limit 1),
                   (select e.id from account a join ended_hold e on e.account_id = a.id
                       and e.usage_seq > a.settled_seq
                     where a.usage_seq > a.settled_seq order by e.id limit 1)),
             ${day}::date, ${holds}, d.digest
        from (${tx.unsafe(DIGEST)}) d
      returning no`,
  );
  return no;
}

/** Only what has moved since is written: most accounts and keys are idle. */
async function noteAccounts(tx: Tx, day: string): Promise<void> {
  await tx`
    insert into proof_account as p
    select a.id, a.last_at, a.usage_seq, a.settled_seq, a.post_no, a.chain,
           case when ${day}::date = '-infinity' then 0 else coalesce((
             select e.usage_seq from ended_hold e
              where e.account_id = a.id and e.usage_seq > 0
                and e.ended_at < (${day}::date + 1)::timestamp at time zone 'UTC'
              order by e.usage_seq desc limit 1), 0) end
      from account a left join proof_account b on b.account_id = a.id
     where b.account_id is null or b.rolled_seq < a.usage_seq
        or (b.through, b.usage_seq, b.settled_seq, b.post_no, b.chain)
           <> (a.last_at, a.usage_seq, a.settled_seq, a.post_no, a.chain)
    on conflict (account_id) do update
       set through = excluded.through, usage_seq = excluded.usage_seq,
           settled_seq = excluded.settled_seq, post_no = excluded.post_no, chain = excluded.chain,
           rolled_seq = greatest(p.rolled_seq, excluded.rolled_seq)`;
}

async function noteChildren(tx: Tx): Promise<void> {
  await tx`
    insert into proof_child
    select c.id, c.account_id, c.day, c.used_daily, c.month, c.used_monthly, c.used_total,
           c.requests_total
      from child_key c left join proof_child b on b.child_key_id = c.id
     where b.child_key_id is null
        or (b.day, b.used_daily, b.month, b.used_monthly, b.used_total, b.requests)
           <> (c.day, c.used_daily, c.month, c.used_monthly, c.used_total, c.requests_total)
    on conflict (child_key_id) do update
       set day = excluded.day, used_daily = excluded.used_daily, month = excluded.month,
           used_monthly = excluded.used_monthly, used_total = excluded.used_total,
           requests = excluded.requests`;
}

async function detachedHolds(tx: Tx): Promise<bigint> {
  const { holds } = only(
    await tx<{ holds: bigint }[]>`
      select coalesce(sum(holds), 0)::bigint as holds from detached_partition`,
  );
  return holds;
}
