import type { Page } from "../base/field.js";
import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, only, type Tx } from "../db/sql.js";

export interface Account {
  id: Id;
  email: string;
  status: "active" | "suspended";
  /** Paid in, less all usage, settled or not. */
  balance: Ngonka;
  /** Reserved by open holds. */
  held: Ngonka;
  /** Balance less held. */
  available: Ngonka;
  referralCode: string;
  createdAt: Date;
}

const ACCOUNTS = (db: Db) => db`
  select a.id, o.email, a.status, a.posted - a.accrued as balance, a.held,
         a.posted - a.accrued - a.held as available, o.referral_code as "referralCode",
         a.created_at as "createdAt"
    from account a join owner o on o.account_id = a.id`;

export async function findAccount(db: Db, account: Id): Promise<Account | undefined> {
  const [row] = await db<Account[]>`${ACCOUNTS(db)} where a.id = ${account}`;
  return row;
}

/** Newest first, one row more than the page has. */
export async function selectAccounts(db: Db, email: string | null, page: Page): Promise<Account[]> {
  return await db<Account[]>`
    ${ACCOUNTS(db)}
     where (${email}::text is null or o.email = ${email}::text)
       and (${page.after}::uuid is null or a.id < ${page.after}::uuid)
     order by a.id desc limit ${page.limit + 1}`;
}

interface NewOwnerRow {
  account: Id;
  email: string;
  passwordHash: string;
  referralCode: string;
  referredBy: Id | null;
}

/**
 * Opens an account. @returns when, or undefined where the e-mail is taken: then nothing may be
 * committed
 */
export async function insertAccount(tx: Tx, row: NewOwnerRow): Promise<Date | undefined> {
  const { createdAt } = only(
    await tx<{ createdAt: Date }[]>`
      insert into account (id) values (${row.account}) returning created_at as "createdAt"`,
  );
  const rows = await tx`
    insert into owner (account_id, email, password_hash, referral_code, referred_by)
    values (${row.account}, ${row.email}, ${row.passwordHash}, ${row.referralCode},
      ${row.referredBy})
    on conflict (email) do nothing
    returning account_id`;
  return rows.length > 0 ? createdAt : undefined;
}

export async function findByReferralCode(db: Db, code: string): Promise<Id | undefined> {
  const [row] = await db<{ account: Id }[]>`
    select account_id as account from owner where referral_code = ${code}`;
  return row?.account;
}

export async function findLogin(
  db: Db,
  email: string,
): Promise<{ account: Id; passwordHash: string } | undefined> {
  const [row] = await db<{ account: Id; passwordHash: string }[]>`
    select account_id as account, password_hash as "passwordHash" from owner
      where email = ${email}`;
  return row;
}

export async function setAccountStatus(
  tx: Tx,
  account: Id,
  status: Account["status"],
): Promise<void> {
  await tx`update account set status = ${status} where id = ${account}`;
}

export async function readPosted(tx: Tx, account: Id): Promise<Ngonka> {
  const rows = await tx<{ posted: Ngonka }[]>`select posted from account where id = ${account}`;
  return only(rows).posted;
}

export async function addToPosted(tx: Tx, account: Id, amount: Ngonka): Promise<void> {
  await tx`update account set posted = posted + ${amount} where id = ${account}`;
}

/** A line of the journal; accounts of the house go by their names. */
export interface Transfer {
  id: Id;
  kind: string;
  debit: string;
  credit: string;
  amount: Ngonka;
  reference: string;
  postedAt: Date;
}

const TRANSFERS = (db: Db) => db`
  select t.id, t.kind, t.amount, t.reference, t.posted_at as "postedAt",
         coalesce(d.name, t.debit_account::text) as debit,
         coalesce(c.name, t.credit_account::text) as credit
    from transfer t
    left join house_account d on d.id = t.debit_account
    left join house_account c on c.id = t.credit_account`;

export async function readTransfer(db: Db, id: Id): Promise<Transfer> {
  return only(await db<Transfer[]>`${TRANSFERS(db)} where t.id = ${id}`);
}

/** What was ever paid into an account, and what of it is left to spend. */
export interface Credits {
  credited: Ngonka;
  available: Ngonka;
}

export async function readCredits(db: Db, account: Id): Promise<Credits> {
  return only(
    await db<Credits[]>`
      select a.posted - a.accrued - a.held as available,
             (select coalesce(sum(t.amount), 0)::bigint from transfer t
               where t.credit_account = a.id) as credited
        from account a where a.id = ${account}`,
  );
}

/** An account's transfers, newest first, one row more than the page has. */
export async function selectTransfers(db: Db, account: Id, page: Page): Promise<Transfer[]> {
  return await db<Transfer[]>`
    ${TRANSFERS(db)}
     where (t.debit_account = ${account} or t.credit_account = ${account})
       and (${page.after}::uuid is null or t.id < ${page.after}::uuid)
     order by t.id desc limit ${page.limit + 1}`;
}
