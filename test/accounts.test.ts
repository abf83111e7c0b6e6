import { jwtVerify } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hashPassword, isPassword } from "../src/accounts/password.js";
import { createAuthenticator } from "../src/edge/auth.js";
import { AccountService, AccountStatus } from "../src/gen/keytoll/v1/account_pb.js";
import { AdminService } from "../src/gen/keytoll/v1/admin_pb.js";
import { AuthService } from "../src/gen/keytoll/v1/auth_pb.js";
import { postTransfer } from "../src/ledger/ledger.js";
import {
  ADMIN_TOKEN,
  aChild,
  aManagementKey,
  anOwner,
  openDoors,
  PASSWORD,
  PEPPER,
  refusalOf,
} from "./support/doors.js";

const { register, login } = AuthService.method;
const { getAccount, listTransfers } = AccountService.method;
const admin = AdminService.method;
const MAX = 9_223_372_036_854_775_807n;
const NOWHERE = "00000000-0000-7000-8000-000000000000";
let doors: Awaited<ReturnType<typeof openDoors>>;

beforeAll(async () => {
  doors = await openDoors();
});
afterAll(() => doors.close());

const credit = async (accountId: string, amountNgonka: bigint, reference: string) =>
  (await doors.call(admin.creditAccount, { accountId, amountNgonka, reference }, ADMIN_TOKEN))
    .transfer;
const accountOf = async (token: string) => (await doors.call(getAccount, {}, token)).account;
const reasonsOf = async (calls: Promise<unknown>[]) =>
  (await Promise.all(calls.map(refusalOf))).map(({ reason }) => reason);

describe("registration", () => {
  test("a new owner has an empty account, a code of their own, and a token that works", async () => {
    const email = "Mixed.Case@Example.com";
    const { accountId, token } = await doors.call(register, { email, password: PASSWORD });
    expect(await accountOf(token)).toMatchObject({
      id: accountId,
      email: "mixed.case@example.com",
      status: AccountStatus.ACTIVE,
      balanceNgonka: 0n,
      heldNgonka: 0n,
      availableNgonka: 0n,
      referralCode: expect.stringMatching(/^[2-9A-HJ-NP-Z]{10}$/),
    });
  });

  test("an e-mail registers once, however it is written and however many try at once", async () => {
    const tries = ["one@example.com", "ONE@example.com", " one@Example.com "].map((email) =>
      doors.call(register, { email, password: PASSWORD }).catch((error) => error.reason),
    );
    const answers = await Promise.all(tries);
    expect(answers.filter((answer) => answer === "email_taken")).toHaveLength(2);
    const rows = await doors.sql`select 1 from owner where email = 'one@example.com'`;
    expect(rows).toHaveLength(1);
    const [orphans] = await doors.sql`
      select count(*)::int as n from account where id not in (select account_id from owner)`;
    expect(orphans?.n).toBe(0);
  });

  test("a referral code names who referred, and an unknown one is refused", async () => {
    const referrer = await anOwner(doors);
    const code = (await accountOf(referrer.token))?.referralCode ?? "";
    const init = { email: "referred@example.com", password: PASSWORD };
    await doors.call(register, { ...init, referralCode: code.toLowerCase() });
    const [row] = await doors.sql`select referred_by from owner where email = ${init.email}`;
    expect(row?.referred_by).toBe(referrer.account);

    for (const referralCode of ["", "NOSUCHCODE", "'; drop table owner; --", "\u0000"]) {
      const call = doors.call(register, { ...init, email: "x@example.com", referralCode });
      expect(await refusalOf(call)).toMatchObject({
        reason: "invalid_request_error",
        param: "referral_code",
      });
    }
  });

  test.each([
    ["", PASSWORD, "email"],
    ["no-at.example.com", PASSWORD, "email"],
    ["two@@example.com", PASSWORD, "email"],
    ["a b@example.com", PASSWORD, "email"],
    ["a\u0000b@example.com", PASSWORD, "email"],
    ["İ@example.com", PASSWORD, "email"],
    ["a@example..com", PASSWORD, "email"],
    [`a@${"x".repeat(260)}`, PASSWORD, "email"],
    ["a@example.com", "", "password"],
    ["a@example.com", "123456789", "password"],
    ["a@example.com", "x".repeat(201), "password"],
  ])("the e-mail %o with the password %o is refused", async (email, password, param) => {
    const refusal = await refusalOf(doors.call(register, { email, password }));
    expect(refusal).toMatchObject({ reason: "invalid_request_error", param });
    if (password) expect(refusal.message).not.toContain(password);
  });

  test("passwords are argon2id with OWASP's cost, and stand nowhere else", async () => {
    const password = "a password that is looked for everywhere";
    const init = { email: "searched@example.com", password };
    const { token } = await doors.call(register, init);
    await doors.call(login, init);
    await refusalOf(doors.call(register, init));
    const [owner] = await doors.sql`select password_hash from owner where email = ${init.email}`;
    expect(owner?.password_hash).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
    for (const table of ["owner", "account", "audit_event", "outbox"]) {
      const rows = await doors.sql<{ line: string }[]>`
        select t::text as line from ${doors.sql(table)} t`;
      for (const { line } of rows) {
        expect(line).not.toContain(password);
        expect(line).not.toContain(token);
      }
    }
  });
});

describe("login", () => {
  test("the right password signs in, whatever the e-mail's case", async () => {
    const email = "login@example.com";
    const { accountId } = await doors.call(register, { email, password: PASSWORD });
    const answer = await doors.call(login, { email: "LOGIN@example.com", password: PASSWORD });
    expect(answer.accountId).toBe(accountId);
    expect((await accountOf(answer.token))?.id).toBe(accountId);
    const life = Number(answer.expiresAt?.seconds) - Date.now() / 1_000;
    expect(life).toBeGreaterThan(86_300);
    expect(life).toBeLessThanOrEqual(86_400);
  });

  test("a wrong password and an unknown e-mail get the same refusal", async () => {
    const email = "wrong@example.com";
    await doors.call(register, { email, password: PASSWORD });
    const calls = [
      doors.call(login, { email, password: "not the password" }),
      doors.call(login, { email: "unknown@example.com", password: PASSWORD }),
    ];
    const [wrong, unknown] = await Promise.all(calls.map(refusalOf));
    expect(wrong?.reason).toBe("invalid_api_key");
    expect(unknown).toEqual(wrong);
  });

  test("an unknown e-mail costs the same work, and never matches", async () => {
    const stored = await hashPassword(PASSWORD);
    expect(await isPassword(PASSWORD, stored)).toBe(true);
    expect(await isPassword("nobody has this password", undefined)).toBe(false);
    const timeOf = async (hash: string | undefined) => {
      const times = [];
      for (let i = 0; i < 5; i++) {
        const start = performance.now();
        await isPassword("a guess", hash);
        times.push(performance.now() - start);
      }
      return Math.min(...times);
    };
    // Without the work it would be a thousandth; the machine may be busy with other things
    expect((await timeOf(undefined)) / (await timeOf(stored))).toBeGreaterThan(0.1);
  });

  test("ten attempts a minute for an e-mail from an address, then a refusal that says how long", async () => {
    const init = { email: "guessed@example.com", password: "a wrong guess" };
    for (let i = 0; i < 10; i++) {
      expect((await refusalOf(doors.call(login, init))).reason).toBe("invalid_api_key");
    }
    const refusal = await refusalOf(doors.call(login, { ...init, email: "GUESSED@example.com" }));
    expect(refusal.reason).toBe("rate_limit_exceeded");
    expect(refusal.retryAfter).toBeGreaterThan(50);
    expect(refusal.retryAfter).toBeLessThanOrEqual(60);
    const elsewhere = doors.call(login, init, undefined, "192.0.2.7");
    expect((await refusalOf(elsewhere)).reason).toBe("invalid_api_key");
  });

  test.each([
    [{ email: "", password: "x" }, "email"],
    [{ email: "a\u0000@example.com", password: "x" }, "email"],
    [{ email: "a@example.com", password: "" }, "password"],
  ])("%o is refused by the name of the field", async (init, param) => {
    expect(await refusalOf(doors.call(login, init))).toMatchObject({
      reason: "invalid_request_error",
      param,
    });
  });
});

describe("tokens", () => {
  const failures = { count: async (error: unknown) => error };
  const authenticator = (...secrets: string[]) =>
    createAuthenticator({ keyring: doors.keyring, secrets, adminToken: ADMIN_TOKEN, failures });
  const shown = (authorization: string | undefined) => ({ authorization, ip: "127.0.0.1" });
  const NEXT = "the next secret, which signs from now on";

  test("the newest secret signs, all verify, and one that is gone no longer does", async () => {
    const old = await authenticator(PEPPER).issueToken(NOWHERE);
    const both = authenticator(NEXT, PEPPER);
    expect(await both.callerOf(shown(`Bearer ${old.token}`))).toEqual({
      kind: "owner",
      account: NOWHERE,
    });
    const fresh = await both.issueToken(NOWHERE);
    await authenticator(NEXT).requireOwner(shown(`Bearer ${fresh.token}`));
    const calls = [
      authenticator(PEPPER).callerOf(shown(`Bearer ${fresh.token}`)),
      authenticator(NEXT).callerOf(shown(`Bearer ${old.token}`)),
    ];
    expect(await reasonsOf(calls)).toEqual(["invalid_api_key", "invalid_api_key"]);
  });

  test("tokens are signed by a key that is not the pepper", async () => {
    const { token } = await authenticator(PEPPER).issueToken(NOWHERE);
    await expect(jwtVerify(token, Buffer.from(PEPPER))).rejects.toThrow();
  });

  test("an unsigned token, and headers that are no bearer's, are refused", async () => {
    const { token } = await authenticator(PEPPER).issueToken(NOWHERE);
    const none = Buffer.from('{"alg":"none"}').toString("base64url");
    const unsigned = `${none}.${token.split(".")[1]}.`;
    const headers = [
      undefined,
      "",
      "Bearer",
      "Bearer ",
      token,
      `Basic ${token}`,
      `Bearer ${unsigned}`,
      `Bearer ${"x".repeat(5_000)}`,
      `Bearer ${ADMIN_TOKEN.slice(0, -1)}`,
    ];
    const reasons = await reasonsOf(headers.map((it) => authenticator(PEPPER).callerOf(shown(it))));
    expect(new Set(reasons)).toEqual(new Set(["invalid_api_key"]));
    expect(await authenticator(PEPPER).callerOf(shown(`bearer ${ADMIN_TOKEN}`))).toEqual({
      kind: "admin",
    });
  });

  test("without an admin token nobody is admin", async () => {
    const auth = createAuthenticator({ keyring: doors.keyring, secrets: [PEPPER], failures });
    const calls = ["Bearer undefined", `Bearer ${ADMIN_TOKEN}`].map((it) =>
      auth.callerOf(shown(it)),
    );
    expect(await reasonsOf(calls)).toEqual(["invalid_api_key", "invalid_api_key"]);
  });
});

describe("credits", () => {
  test("a credit moves the balance once, however often and however concurrently it is asked for", async () => {
    const { account, token } = await anOwner(doors);
    const credits = await Promise.all(
      Array.from({ length: 20 }, () => credit(account, 500n, "invoice 1")),
    );
    for (const transfer of credits) expect(transfer).toEqual(credits[0]);
    expect(credits[0]).toMatchObject({
      kind: "credit",
      debitAccount: "deposits",
      creditAccount: account,
      amountNgonka: 500n,
      reference: "invoice 1",
    });
    expect(await accountOf(token)).toMatchObject({ balanceNgonka: 500n, availableNgonka: 500n });
    const events = await doors.sql`
      select actor, change->>'amount' as amount from audit_event
       where account_id = ${account} and action = 'account.credited'`;
    expect([...events]).toEqual([{ actor: "admin", amount: "500" }]);
  });

  test("a reference with another amount or for another account is a conflict, and pays nothing", async () => {
    const [one, two] = [await anOwner(doors), await anOwner(doors)];
    await credit(one.account, 5n, "invoice 2");
    const calls = [credit(one.account, 6n, "invoice 2"), credit(two.account, 5n, "invoice 2")];
    expect(await reasonsOf(calls)).toEqual(["idempotency_conflict", "idempotency_conflict"]);
    expect((await accountOf(one.token))?.balanceNgonka).toBe(5n);
    expect((await accountOf(two.token))?.balanceNgonka).toBe(0n);
  });

  test("a credit that would make the balance larger than int64 is refused", async () => {
    const { account, token } = await anOwner(doors);
    await credit(account, MAX, "as much as there is");
    expect(await refusalOf(credit(account, 1n, "one more"))).toMatchObject({
      reason: "invalid_request_error",
      param: "amount_ngonka",
    });
    expect((await accountOf(token))?.balanceNgonka).toBe(MAX);
    expect((await doors.call(listTransfers, {}, token)).data).toHaveLength(1);
  });

  test.each([
    [0n, "ref", "amount_ngonka"],
    [-1n, "ref", "amount_ngonka"],
    [MAX + 1n, "ref", "amount_ngonka"],
    [1n, "", "reference"],
    [1n, "x".repeat(201), "reference"],
    [1n, "a\u0000b", "reference"],
  ])("%s ngonka for %o is refused", async (amount, reference, param) => {
    const { account } = await anOwner(doors);
    expect(await refusalOf(credit(account, amount, reference))).toMatchObject({
      reason: "invalid_request_error",
      param,
    });
  });

  test("every change moves the account's time on", async () => {
    const { account } = await anOwner(doors);
    const times: Date[] = [];
    const note = async () => {
      const [row] = await doors.sql`select last_at from account where id = ${account}`;
      times.push(row?.last_at);
    };
    await doors.sql`update account set last_at = now() + interval '1 hour' where id = ${account}`;
    await note();
    const transfer = await credit(account, 5n, "in an hour");
    await note();
    await doors.call(admin.suspendAccount, { accountId: account }, ADMIN_TOKEN);
    await note();
    await doors.call(admin.resumeAccount, { accountId: account }, ADMIN_TOKEN);
    await note();
    expect(times).toEqual([...times].sort((a, b) => a.getTime() - b.getTime()));
    expect(new Set(times.map(Number)).size).toBe(4);
    const posted = Number(transfer?.createdAt?.seconds) * 1_000;
    expect(posted).toBeGreaterThan(Date.now() + 3_000_000);
  });
});

describe("the owner's journal", () => {
  test("pages show each of the owner's transfers once, newest first, and nobody else's", async () => {
    const { account, token } = await anOwner(doors);
    const other = await anOwner(doors);
    await credit(other.account, 9n, "of another owner");
    for (let i = 0; i < 5; i++) await credit(account, BigInt(i + 1), `paid in ${i}`);
    const at = new Date(Date.now() + 1_000);
    const revenue = "00000000-0000-0000-0000-000000000002";
    const line = { debit: account, credit: revenue, amount: 2n, kind: "settlement" } as const;
    await doors.sql.begin((tx) => postTransfer(tx, { ...line, reference: `${account}/1`, at }));

    const seen = [];
    let cursor: string | undefined;
    do {
      const page = await doors.call(listTransfers, { limit: 2, ...(cursor && { cursor }) }, token);
      seen.push(...page.data);
      cursor = page.nextCursor;
    } while (cursor);
    expect(seen.map((it) => it.amountNgonka)).toEqual([2n, 5n, 4n, 3n, 2n, 1n]);
    expect(seen[0]).toMatchObject({
      kind: "settlement",
      debitAccount: account,
      creditAccount: "revenue",
    });
  });

  test.each([
    [{ limit: 0 }, "limit"],
    [{ limit: 101 }, "limit"],
    [{ cursor: "nonsense" }, "cursor"],
  ])("a list refuses %o by the name of the field", async (init, param) => {
    const { token } = await anOwner(doors);
    expect(await refusalOf(doors.call(listTransfers, init, token))).toMatchObject({
      reason: "invalid_request_error",
      param,
    });
  });
});

describe("the operator", () => {
  test("suspends and resumes an account; again is the same; each change is on record once", async () => {
    const { account, token } = await anOwner(doors);
    const suspend = { accountId: account, reason: "unpaid" };
    for (let i = 0; i < 2; i++) {
      const answer = await doors.call(admin.suspendAccount, suspend, ADMIN_TOKEN);
      expect(answer.account?.status).toBe(AccountStatus.SUSPENDED);
    }
    expect((await accountOf(token))?.status).toBe(AccountStatus.SUSPENDED);
    for (let i = 0; i < 2; i++) {
      const answer = await doors.call(admin.resumeAccount, { accountId: account }, ADMIN_TOKEN);
      expect(answer.account?.status).toBe(AccountStatus.ACTIVE);
    }
    const events = await doors.sql`
      select action, change from audit_event
       where account_id = ${account} and actor = 'admin' order by id`;
    expect([...events]).toEqual([
      { action: "account.suspended", change: { reason: "unpaid" } },
      { action: "account.resumed", change: {} },
    ]);
  });

  test("lists accounts newest first by pages, and finds one by its e-mail", async () => {
    await anOwner(doors);
    const newest = await anOwner(doors);
    const page = await doors.call(admin.listAccounts, { limit: 1 }, ADMIN_TOKEN);
    expect(page.data.map((it) => it.id)).toEqual([newest.account]);
    const cursor = page.nextCursor ?? "";
    const next = await doors.call(admin.listAccounts, { limit: 1, cursor }, ADMIN_TOKEN);
    expect(next.data[0]?.id).not.toBe(newest.account);

    const email = (await accountOf(newest.token))?.email.toUpperCase() ?? "";
    const found = await doors.call(admin.listAccounts, { email }, ADMIN_TOKEN);
    expect(found.data.map((it) => it.id)).toEqual([newest.account]);
    const none = await doors.call(admin.listAccounts, { email: "no@example.com" }, ADMIN_TOKEN);
    expect(none).toMatchObject({ data: [] });
  });

  test("sees what waits", async () => {
    const { account } = await anOwner(doors);
    await doors.sql`update account set usage_seq = usage_seq + 3 where id = ${account}`;
    await doors.sql`insert into outbox (kind, key) values ('key_expiry', 'x')`;
    const status = await doors.call(admin.getStatus, {}, ADMIN_TOKEN);
    expect(status).toMatchObject({
      version: "test",
      ready: true,
      openHolds: 0n,
      unsettledRecords: 3n,
      outboxEntries: 1n,
    });
    expect(Math.abs(Number(status.databaseTime?.seconds) - Date.now() / 1_000)).toBeLessThan(5);
    await doors.sql`update account set usage_seq = settled_seq where id = ${account}`;
  });

  test("an account that is not there is not found", async () => {
    const calls = [NOWHERE, "nonsense"].flatMap((accountId) => [
      credit(accountId, 1n, "nobody's"),
      doors.call(admin.suspendAccount, { accountId }, ADMIN_TOKEN),
      doors.call(admin.resumeAccount, { accountId }, ADMIN_TOKEN),
    ]);
    expect(new Set(await reasonsOf(calls))).toEqual(new Set(["not_found"]));
  });

  test("alone may administer, and owns no account", async () => {
    const { account, token } = await anOwner(doors);
    const { gm, managementKeyId } = await aManagementKey(doors, token);
    const { gc } = await aChild(doors, token, managementKeyId);
    const credited = { accountId: account, amountNgonka: 1n, reference: "theirs" };
    const calls = [token, gm, gc].flatMap((bearer) => [
      doors.call(admin.creditAccount, credited, bearer),
      doors.call(admin.listAccounts, {}, bearer),
      doors.call(admin.suspendAccount, { accountId: account }, bearer),
      doors.call(admin.resumeAccount, { accountId: account }, bearer),
      doors.call(admin.getStatus, {}, bearer),
    ]);
    for (const bearer of [gm, gc, ADMIN_TOKEN]) {
      calls.push(doors.call(getAccount, {}, bearer) as never);
      calls.push(doors.call(listTransfers, {}, bearer) as never);
    }
    expect(new Set(await reasonsOf(calls))).toEqual(new Set(["wrong_key_kind"]));
  });
});
