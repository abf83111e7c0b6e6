import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, only, type Sql, type Tx } from "../db/sql.js";
import type { NewTransfer, TransferKind } from "./ledger.js";

interface TransferRow {
  id: Id;
  debit: Id;
  credit: Id;
  amount: Ngonka;
}

/** @returns false when a transfer of that kind and reference is there already */
export async function insertTransfer(tx: Tx, id: Id, transfer: NewTransfer): Promise<boolean> {
  const { debit, credit, amount, kind, reference, at } = transfer;
  const rows = await tx`
    insert into transfer (id, debit_account, credit_account, amount, kind, reference, posted_at)
    values (${id}, ${debit}, ${credit}, ${amount}, ${kind}, ${reference}, ${at})
    on conflict (kind, reference) do nothing
    returning id`;
  return rows.length > 0;
}

export async function findTransfer(
  db: Db,
  kind: TransferKind,
  reference: string,
): Promise<TransferRow> {
  return only(
    await db<TransferRow[]>`
      select id, debit_account as debit, credit_account as credit, amount
        from transfer where kind = ${kind} and reference = ${reference}`,
  );
}

/**
 * Accounts of a shard with captured usage that is not posted yet, ascending, after `after`. Those
 * that are set aside come when they are due.
 */
export async function accountsBehind(db: Db, shard: number, after: Id, limit: number) {
  return await db<{ id: Id; setAside: boolean }[]>`
    select a.id, s.account_id is not null as "setAside"
      from account a left join settlement_set_aside s
        on s.account_id = a.id and s.settled_at is null
     where shard_of(a.id) = ${shard} and a.usage_seq > a.settled_seq and a.id > ${after}
       and (s.account_id is null or s.next_at <= (select keytoll_clock()))
     order by a.id limit ${limit}`;
}

/** Shards with captured usage that is not posted yet and whose accounts are not set aside. */
export async function shardsBehind(db: Db): Promise<number[]> {
  const rows = await db<{ shard: number }[]>`
    select distinct shard_of(a.id) as shard from account a
     where a.usage_seq > a.settled_seq and not exists (
       select from settlement_set_aside s where s.account_id = a.id and s.settled_at is null)`;
  return rows.map((row) => row.shard);
}

/** Posts at most `max` records of one account: a transaction of its own. */
export async function settleAccount(sql: Sql, account: Id, max: number) {
  return only(
    await sql<{ records: bigint; amount: Ngonka; behind: bigint }[]>`
      select records, amount, behind from settle_account(${account}, ${max})`,
  );
}

/** How far the journal is behind the captures: of one shard, or of all (null). */
export async function lagOf(db: Db, shard: number | null) {
  return only(
    await db<{ accounts: number; behind: bigint; oldestSeconds: number }[]>`
      select count(*)::int as accounts,
             coalesce(sum(a.usage_seq - a.settled_seq), 0)::bigint as behind,
             coalesce(greatest(0, max(extract(epoch from keytoll_clock() - (
               select h.ended_at from ended_hold h
                where h.account_id = a.id and h.usage_seq = a.settled_seq + 1)))),
                  0)::int as "oldestSeconds"
        from account a
       where a.usage_seq > a.settled_seq and (${shard}::int is null
         or shard_of(a.id) = ${shard}::int)`,
  );
}
