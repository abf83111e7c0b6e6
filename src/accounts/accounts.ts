import { createHash, randomBytes } from "node:crypto";
import { refuse, refuseField } from "../base/errors.js";
import { checkAmount, checkText, type Page, type Paged, toPage } from "../base/field.js";
import { type Id, newId } from "../base/ids.js";
import { MAX_NGONKA, type Ngonka } from "../base/money.js";
import { lockForChange, recordAudit } from "../db/change.js";
import { type Db, inTransaction, type Sql, type Tx } from "../db/sql.js";
import { HOUSE, postTransfer } from "../ledger/ledger.js";
import { type Backlog, readBacklog } from "./backlog-store.js";
import { checkEmail, checkPassword } from "./fields.js";
import { hashPassword, isPassword } from "./password.js";
import {
  type Account,
  addToPosted,
  type Credits,
  findAccount,
  findByReferralCode,
  findLogin,
  insertAccount,
  readCredits,
  readPosted,
  readTransfer,
  selectAccounts,
  selectTransfers,
  setAccountStatus,
  type Transfer,
} from "./store.js";

const MAX_REFERENCE = 200;
const MAX_REASON = 200;
/** Without the letters that are read as digits. */
const CODE_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
const CODE_LENGTH = 10;
const LOGINS_A_MINUTE = 10;

interface Registration {
  email: string;
  password: string;
  referralCode?: string | undefined;
}

/**
 * Opens an account with its owner.
 *
 * @returns the account's id
 * @throws email_taken; invalid_request_error by the field's name
 */
export async function register(sql: Sql, registration: Registration): Promise<Id> {
  const email = checkEmail(registration.email);
  const passwordHash = await hashPassword(checkPassword(registration.password));
  return await inTransaction(sql, async (tx) => {
    const referredBy = await referrerOf(tx, registration.referralCode);
    const [account, referralCode] = [newId(), newReferralCode()];
    const row = { account, email, passwordHash, referralCode, referredBy };
    const at = await insertAccount(tx, row);
    if (!at) throw refuse("email_taken");
    const change = { email, referredBy };
    const action = "account.registered";
    await recordAudit(tx, {
      account,
      at,
      actor: `owner:${account}`,
      action,
      subject: account,
      change,
    });
    return account;
  });
}

async function referrerOf(tx: Tx, code: string | undefined): Promise<Id | null> {
  if (code === undefined) return null;
  const wanted = code.trim().toUpperCase();
  const wellFormed = /^[0-9A-Z]{1,32}$/.test(wanted);
  const account = wellFormed ? await findByReferralCode(tx, wanted) : undefined;
  if (!account) throw refuseField("referral_code", "no account has this code");
  return account;
}

function newReferralCode(): string {
  const letters = [...randomBytes(CODE_LENGTH)].map((byte) => CODE_LETTERS[byte & 31]);
  return letters.join("");
}

interface Login {
  email: string;
  password: string;
  ip: string;
}
type Limit = (
  key: string,
  limit: number,
) => Promise<{ allowed: boolean; retryAfterSeconds: number }>;

/**
 * Tells whose e-mail and password these are. An unknown e-mail takes as long as a wrong password
 * and is refused alike.
 *
 * @param takeTurn counts attempts by e-mail and address: 10 a minute
 * @throws invalid_api_key, rate_limit_exceeded; invalid_request_error for what is no e-mail at all
 */
export async function logIn(db: Db, login: Login, takeTurn: Limit): Promise<Id> {
  const email = checkEmail(login.email);
  if (login.password === "") throw refuseField("password", "is required");
  const who = createHash("sha256").update(`${email}\n${login.ip}`).digest("base64url");
  const turn = await takeTurn(`login:${who}`, LOGINS_A_MINUTE);
  if (!turn.allowed) throw refuse("rate_limit_exceeded", { retryAfter: turn.retryAfterSeconds });

  const found = await findLogin(db, email);
  const right = await isPassword(login.password, found?.passwordHash);
  if (!found || !right) {
    throw refuse("invalid_api_key", { message: "the e-mail or the password is wrong" });
  }
  return found.account;
}

/** @throws not_found */
export async function getAccount(db: Db, account: Id): Promise<Account> {
  const found = await findAccount(db, account);
  if (!found) throw refuse("not_found");
  return found;
}

/** What was paid in, and what is left of it: net of usage, open holds and corrections. */
export const getCredits = (db: Db, account: Id): Promise<Credits> => readCredits(db, account);

/** What waits to be done or was set aside, how old the oldest is, and what the newest pass found. */
export const getBacklog = (db: Db): Promise<Backlog> => readBacklog(db);

/** All accounts, or the one with an e-mail, newest first. */
export async function listAccounts(
  db: Db,
  email: string | undefined,
  page: Page,
): Promise<Paged<Account>> {
  const wanted = email === undefined ? null : checkEmail(email);
  return toPage(await selectAccounts(db, wanted, page), page);
}

/** The account's lines of the journal, newest first. */
export async function listTransfers(db: Db, account: Id, page: Page): Promise<Paged<Transfer>> {
  return toPage(await selectTransfers(db, account, page), page);
}

interface Credit {
  account: Id;
  amount: Ngonka;
  /** The operator's unique word for this payment. */
  reference: string;
}

/**
 * Pays an amount into an account. The same reference with the same amount is the same payment: it
 * answers alike and pays nothing again.
 *
 * @throws idempotency_conflict  the reference paid another amount, or another account
 * @throws not_found, invalid_request_error
 */
export async function creditAccount(sql: Sql, credit: Credit): Promise<Transfer> {
  const { account } = credit;
  const amount = checkAmount("amount_ngonka", credit.amount);
  if (amount === 0n) throw refuseField("amount_ngonka", "must be above zero");
  const reference = checkText("reference", credit.reference, 1, MAX_REFERENCE);

  return await inTransaction(sql, async (tx) => {
    const at = await lockForChange(tx, account);
    const line = {
      debit: HOUSE.deposits,
      credit: account,
      amount,
      kind: "credit",
      reference,
      at,
    } as const;
    const { id, repeated } = await postTransfer(tx, line);
    if (repeated) return await readTransfer(tx, id);

    if ((await readPosted(tx, account)) > MAX_NGONKA - amount) {
      throw refuseField("amount_ngonka", "makes the balance larger than an int64");
    }
    await addToPosted(tx, account, amount);
    const change = { amount, reference, transfer: id };
    const action = "account.credited";
    await recordAudit(tx, { account, at, actor: "admin", action, subject: account, change });
    return await readTransfer(tx, id);
  });
}

/** Stops an account from spending; again is the same. @throws not_found, invalid_request_error */
export async function suspendAccount(sql: Sql, account: Id, reason: string): Promise<Account> {
  const change = { reason: checkText("reason", reason, 0, MAX_REASON) };
  return await changeStatus(sql, account, "suspended", change);
}

/** Lets a suspended account spend again; again is the same. @throws not_found */
export async function resumeAccount(sql: Sql, account: Id): Promise<Account> {
  return await changeStatus(sql, account, "active", {});
}

async function changeStatus(
  sql: Sql,
  account: Id,
  status: Account["status"],
  change: Record<string, unknown>,
): Promise<Account> {
  return await inTransaction(sql, async (tx) => {
    const at = await lockForChange(tx, account);
    const before = await getAccount(tx, account);
    if (before.status === status) return before;
    await setAccountStatus(tx, account, status);
    const action = status === "active" ? "account.resumed" : "account.suspended";
    await recordAudit(tx, { account, at, actor: "admin", action, subject: account, change });
    return { ...before, status };
  });
}
