import { refuse } from "../base/errors.js";
import { type Id, newId } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { isPassing } from "../db/outage.js";
import type { Db, Sql, Tx } from "../db/sql.js";
import { listSetAside, type SetAside, setAside, takeBack } from "./set-aside-store.js";
import { accountsBehind, findTransfer, insertTransfer, lagOf, settleAccount } from "./store.js";

export { listSetAside, type SetAside } from "./set-aside-store.js";
export { shardsBehind } from "./store.js";

/**
 * Accounts of the house, the other side of every transfer. Their balances are summed from the
 * journal.
 */
export const HOUSE = {
  deposits: "00000000-0000-0000-0000-000000000001",
  revenue: "00000000-0000-0000-0000-000000000002",
  loss: "00000000-0000-0000-0000-000000000003",
  upstreamCost: "00000000-0000-0000-0000-000000000004",
  /** Owed to those who brought a customer. */
  referral: "00000000-0000-0000-0000-000000000005",
  /** Seen on its rail, not yet credited. */
  depositsInTransit: "00000000-0000-0000-0000-000000000006",
} as const satisfies Record<string, Id>;

export type TransferKind = "credit" | "settlement" | "loss";

/** One line of the journal: `amount` moves from `debit` to `credit`. */
export interface NewTransfer {
  debit: Id;
  credit: Id;
  /** Above zero. */
  amount: Ngonka;
  kind: TransferKind;
  /** Natural key within its kind: the same thing is never posted twice. */
  reference: string;
  at: Date;
}

/**
 * Writes a line of the journal, once for its kind and reference. The journal only: where a
 * customer's account is on one side, the caller locks it first and moves its `posted` in the same
 * transaction, unless this was a repeat.
 *
 * @returns the line's id, and whether it had been posted before
 * @throws idempotency_conflict the reference was posted with another amount or between other
 *   accounts
 */
export async function postTransfer(
  tx: Tx,
  transfer: NewTransfer,
): Promise<{ id: Id; repeated: boolean }> {
  const id = newId();
  if (await insertTransfer(tx, id, transfer)) return { id, repeated: false };

  const before = await findTransfer(tx, transfer.kind, transfer.reference);
  const same =
    before.amount === transfer.amount &&
    before.debit === transfer.debit &&
    before.credit === transfer.credit;
  if (!same) {
    throw refuse("idempotency_conflict", {
      message: `the reference ${transfer.reference} was used for another transfer`,
      shouldRetry: false,
    });
  }
  return { id: before.id, repeated: true };
}

export interface SettleOptions {
  /** Records in one post, and so in one transaction. */
  maxPerPost?: number;
  /** Posts of one account in a row; one with more to post must not keep the others waiting. */
  maxPosts?: number;
  /** Called before an account is posted, with how many records may be posted now. */
  beforePosts?: (account: Id, records: number) => Promise<void>;
  /** Called after each account. */
  onProgress?: () => void;
  /** Called for each account that was tried in vain. */
  onFailed?: (account: Id, reason: string) => void;
}

export interface ShardSettled {
  accounts: number;
  records: number;
  amountNgonka: string;
  /** Captured records of the shard that are not posted yet. */
  behind: number;
  /** Age of the oldest of them in whole seconds; 0 where there is none. */
  oldestSeconds: number;
  /** Accounts that are set aside, longest first, 20 at most. */
  failed: SetAside[];
}

const PAGE = 200;
const NAMED = 20;
const FIRST: Id = "00000000-0000-0000-0000-000000000000";

/**
 * Posts captured usage of a shard's accounts to the journal: one pass over the accounts that have
 * any, each post a transaction of its own that touches one customer's account. Exactly once
 * whatever runs beside it or again, by the account's watermark. An account that cannot be posted is
 * set aside with its reason, stops no other and is tried again ever more rarely.
 *
 * @throws when the database is away; what was posted before that stays posted
 */
export async function settleShard(
  sql: Sql,
  shard: number,
  options: SettleOptions = {},
): Promise<ShardSettled> {
  const all = { accounts: 0, records: 0n, amount: 0n };
  for (let after: Id | undefined = FIRST; after !== undefined; ) {
    const page: Awaited<ReturnType<typeof accountsBehind>> = await accountsBehind(
      sql,
      shard,
      after,
      PAGE,
    );
    for (const account of page) {
      const posted = await settleOrSetAside(sql, account, options);
      if (typeof posted === "string") options.onFailed?.(account.id, posted);
      else if (posted.records > 0n) {
        all.accounts += 1;
        all.records += posted.records;
        all.amount += posted.amount;
      }
      options.onProgress?.();
    }
    after = page.length === PAGE ? page.at(-1)?.id : undefined;
  }
  const { behind, oldestSeconds } = await lagOf(sql, shard);
  return {
    accounts: all.accounts,
    records: Number(all.records),
    amountNgonka: all.amount.toString(),
    behind: Number(behind),
    oldestSeconds,
    failed: await listSetAside(sql, shard, NAMED),
  };
}

/**
 * Posts what one account has used, and sets it aside where that fails.
 *
 * @returns why not, where it cannot be posted
 * @throws what passes by itself: the database being away, full, or undoing it
 */
export async function settleOrSetAside(
  sql: Sql,
  account: { id: Id; setAside: boolean },
  options: SettleOptions = {},
) {
  try {
    const posted = await settleFully(sql, account.id, options);
    if (account.setAside) await takeBack(sql, account.id);
    return posted;
  } catch (error) {
    if (isPassing(error)) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    await setAside(sql, account.id, reason);
    return reason;
  }
}

async function settleFully(
  sql: Sql,
  account: Id,
  { maxPerPost = 10_000, maxPosts = 10, beforePosts }: SettleOptions,
) {
  await beforePosts?.(account, maxPerPost * maxPosts);
  const all = { records: 0n, amount: 0n as Ngonka };
  for (let post = 1; post <= maxPosts; post++) {
    const { records, amount, behind } = await settleAccount(sql, account, maxPerPost);
    all.records += records;
    all.amount += amount;
    if (records === 0n || behind <= 0n) break;
  }
  return all;
}

/**
 * How far the journal is behind the captures, over all shards: accounts, records, age of the oldest
 * in seconds.
 */
export async function settlementLag(
  db: Db,
): Promise<{ accounts: number; behind: bigint; oldestSeconds: number }> {
  return await lagOf(db, null);
}
