import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { checkPage } from "../base/field.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import {
  type AccountSchema,
  AccountStatus,
  type GetAccountRequest,
  type ListTransfersRequest,
  type TransferSchema,
} from "../gen/keytoll/v1/account_pb.js";
import type { LoginRequest, RegisterRequest } from "../gen/keytoll/v1/auth_pb.js";
import { getAccount, listTransfers, logIn, register } from "./accounts.js";
import type { Account, Transfer } from "./store.js";

interface Call {
  authorization: string | undefined;
  ip: string;
}

export interface AuthHandling {
  sql: Sql;
  issueToken(account: Id): Promise<{ token: string; expiresAt: Date }>;
  /** Counts a request of a key where no more than `limit` are in any 60 s. */
  takeTurn(key: string, limit: number): Promise<{ allowed: boolean; retryAfterSeconds: number }>;
  /** Counts what failed by its address. @returns what to throw */
  failures: { count(error: unknown, ip: string): Promise<unknown> };
}

/** The handlers of AuthService. */
export function authHandlers({ sql, issueToken, takeTurn, failures }: AuthHandling) {
  const answerFor = async (accountId: Id) => {
    const { token, expiresAt } = await issueToken(accountId);
    return { accountId, token, expiresAt: timestampFromDate(expiresAt) };
  };
  const counted = async (account: Promise<Id>, { ip }: Call): Promise<Id> => {
    try {
      return await account;
    } catch (error) {
      throw await failures.count(error, ip);
    }
  };
  return {
    async register({ email, password, referralCode }: RegisterRequest, call: Call) {
      return await answerFor(await counted(register(sql, { email, password, referralCode }), call));
    },
    async login({ email, password }: LoginRequest, call: Call) {
      const login = { email, password, ip: call.ip };
      return await answerFor(await counted(logIn(sql, login, takeTurn), call));
    },
  };
}

export interface AccountHandling {
  sql: Sql;
  requireOwner(call: Call): Promise<{ account: Id }>;
}

/** The handlers of AccountService. */
export const accountHandlers = ({ sql, requireOwner }: AccountHandling) => ({
  async getAccount(_request: GetAccountRequest, call: Call) {
    const { account } = await requireOwner(call);
    return { account: encodeAccount(await getAccount(sql, account)) };
  },
  async listTransfers(request: ListTransfersRequest, call: Call) {
    const { account } = await requireOwner(call);
    const page = await listTransfers(sql, account, checkPage(request));
    return { ...page, data: page.data.map(encodeTransfer) };
  },
});

const STATUS = { active: AccountStatus.ACTIVE, suspended: AccountStatus.SUSPENDED } as const;

export const encodeAccount = (account: Account): MessageInitShape<typeof AccountSchema> => ({
  id: account.id,
  email: account.email,
  status: STATUS[account.status],
  balanceNgonka: account.balance,
  heldNgonka: account.held,
  availableNgonka: account.available,
  referralCode: account.referralCode,
  createdAt: timestampFromDate(account.createdAt),
});

export const encodeTransfer = (transfer: Transfer): MessageInitShape<typeof TransferSchema> => ({
  id: transfer.id,
  kind: transfer.kind,
  debitAccount: transfer.debit,
  creditAccount: transfer.credit,
  amountNgonka: transfer.amount,
  reference: transfer.reference,
  createdAt: timestampFromDate(transfer.postedAt),
});
