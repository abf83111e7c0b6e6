import { type Db, only } from "../db/sql.js";
import { type Checkpoint, openHolds, type Scope } from "./invariant.js";

const START = "-infinity";

/** What was taken off with its partition stands in for the rows that are gone. */
const DETACHED_ACCOUNTS = `
  (select account_id, '-infinity'::timestamptz as through, through as judged, records,
          usage_seq as gone_seq, 0::bigint as post_no, null::bytea as chain, 0::bigint as rolled_seq
     from detached_account)`;
const PROVED_ACCOUNTS = `
  (select account_id, through, through as judged, usage_seq as records, 0::bigint as gone_seq,
          post_no, chain, rolled_seq
     from proof_account)`;

/** The newest checkpoint. */
export async function newestCheckpoint(db: Db): Promise<Checkpoint | null> {
  const [row] = await db<Checkpoint[]>`
    select no, taken_at as "takenAt", rolled_day::text as "rolledDay", id_floor as "idFloor", holds,
           encode(digest, 'hex') as digest
      from proof order by no desc limit 1`;
  return row ?? null;
}

/** Makes what a pass keeps for itself, before its read-only transaction: later nothing can be. */
export async function makeRoom(db: Db): Promise<void> {
  await db.unsafe(`
    create temporary table if not exists recent_hold
      (like ended_hold, through timestamptz not null, judged timestamptz not null);
    create temporary table if not exists child_sum (
      child_key_id uuid primary key, daily numeric not null, monthly numeric not null,
      total numeric not null, asked numeric not null, holds bigint not null, requests bigint not null);
    truncate recent_hold, child_sum`);
}

/**
 * Opens a pass inside its snapshot: finds what came after the checkpoint, and sums it up per child
 * key once, for all who ask.
 */
export async function openScope(tx: Db, from: Checkpoint | null): Promise<Scope> {
  const scope = from ? await recently(tx, from) : await fromTheStart(tx);
  await sumUpChildren(tx, scope);
  const counts = only(
    await tx<{ holds: bigint; records: bigint }[]>`
      select coalesce(sum(holds), 0)::bigint as holds, coalesce(sum(requests), 0)::bigint as records
        from child_sum`,
  );
  return { ...scope, ...counts };
}

const EMPTY = { holds: 0n, records: 0n };

async function fromTheStart(tx: Db): Promise<Scope> {
  const { day } = only(
    await tx<{ day: string }[]>`
      select coalesce(max((through at time zone 'UTC')::date), '-infinity')::text as day
        from detached_account`,
  );
  // without anything detached, a plain scan: the join would cost a third more
  const ended =
    day === START
      ? "(select *, '-infinity'::timestamptz as through, '-infinity'::timestamptz as judged from ended_hold)"
      : `(select h.*, '-infinity'::timestamptz as through, coalesce(d.through, '-infinity') as judged
            from ended_hold h left join detached_account d on d.account_id = h.account_id)`;
  const relations = { ended, accounts: DETACHED_ACCOUNTS, children: "detached_child" };
  return { whole: true, from: null, ...relations, rolledDay: day, ...EMPTY };
}

/**
 * Holds that ended after the checkpoint: later than their account's time then. Their ids are not
 * older than what was open then, or a day older than the checkpoint; whole partitions are looked
 * at, so that no clock that was set back hides one.
 */
async function recently(tx: Db, from: Checkpoint): Promise<Scope> {
  await tx`
    insert into recent_hold
    select h.*, coalesce(b.through, '-infinity'), coalesce(b.through, '-infinity')
      from ended_hold h left join proof_account b on b.account_id = h.account_id
     where h.id >= first_id_of(
             date_trunc('month', time_of_id(${from.idFloor}::uuid) at time zone 'UTC') at time zone 'UTC')
       and h.ended_at > coalesce(b.through, '-infinity')`;
  await tx`analyze recent_hold`;
  const relations = { ended: "recent_hold", accounts: PROVED_ACCOUNTS, children: "proof_child" };
  return { whole: false, from, ...relations, rolledDay: from.rolledDay, ...EMPTY };
}

/**
 * What a child key's counters have moved by: an authorization adds what it holds, its end gives
 * back what it did not cost.
 */
async function sumUpChildren(tx: Db, scope: Scope): Promise<void> {
  await tx.unsafe(`
    insert into child_sum
    select k.id, coalesce(sum(moved) filter (where h.day = k.day), 0),
           coalesce(sum(moved) filter (where h.month = k.month), 0), sum(moved),
           coalesce(sum(h.amount) filter (where h.authorized_at > h.judged), 0), sum(ended), sum(used)
      from (select account_id, child_key_id, day, month, amount, authorized_at, judged,
                   cost - case when authorized_at <= through then amount else 0 end as moved,
                   1 as ended, (usage_seq is not null)::int as used
              from ${scope.ended} e
            union all
            select account_id, child_key_id, day, month, amount, authorized_at, judged,
                   case when authorized_at <= through then 0 else amount end, 0, 0
              from ${openHolds(scope)} o) h
      join child_key k on k.id = h.child_key_id and k.account_id = h.account_id
     group by k.id`);
  await tx`analyze child_sum`;
}
