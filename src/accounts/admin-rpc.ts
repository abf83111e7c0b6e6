import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import { checkId, checkPage } from "../base/field.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import type {
  AccountLimitsSchema,
  CreditAccountRequest,
  GetAccountLimitsRequest,
  GetStatusRequest,
  GetStatusResponseSchema,
  ListAccountsRequest,
  ListModelPricesRequest,
  ModelPriceSchema,
  ResumeAccountRequest,
  SetAccountLimitsRequest,
  SetModelPriceRequest,
  SuspendAccountRequest,
} from "../gen/keytoll/v1/admin_pb.js";
import { listPrices, type Price, setModelPrice } from "../pricing/prices.js";
import {
  creditAccount,
  getBacklog,
  listAccounts,
  resumeAccount,
  suspendAccount,
} from "./accounts.js";
import type { Backlog } from "./backlog-store.js";
import type { AccountRate } from "./limit-store.js";
import { getAccountRate, setAccountRate } from "./limits.js";
import { encodeAccount, encodeTransfer } from "./rpc.js";

interface Call {
  authorization: string | undefined;
}

type Health = Pick<
  MessageInitShape<typeof GetStatusResponseSchema>,
  "version" | "ready" | "dependencies"
>;

export interface AdminHandling {
  sql: Sql;
  requireAdmin(call: Call): Promise<void>;
  /** What this process stands on, as /readyz tells it. */
  health(): Promise<Health>;
}

/** The handlers of AdminService. */
export const adminHandlers = (handling: AdminHandling) => ({
  ...adminAccountHandlers(handling),
  ...adminLimitHandlers(handling),
  ...adminPriceHandlers(handling),
});

function adminAccountHandlers({ sql, requireAdmin, health }: AdminHandling) {
  const idOf = (request: { accountId: string }) => checkId("account_id", request.accountId);
  return {
    async creditAccount(request: CreditAccountRequest, call: Call) {
      await requireAdmin(call);
      const { amountNgonka: amount, reference } = request;
      const transfer = await creditAccount(sql, { account: idOf(request), amount, reference });
      return { transfer: encodeTransfer(transfer) };
    },
    async listAccounts(request: ListAccountsRequest, call: Call) {
      await requireAdmin(call);
      const page = await listAccounts(sql, request.email, checkPage(request));
      return { ...page, data: page.data.map(encodeAccount) };
    },
    async suspendAccount(request: SuspendAccountRequest, call: Call) {
      await requireAdmin(call);
      const account = await suspendAccount(sql, idOf(request), request.reason);
      return { account: encodeAccount(account) };
    },
    async resumeAccount(request: ResumeAccountRequest, call: Call) {
      await requireAdmin(call);
      return { account: encodeAccount(await resumeAccount(sql, idOf(request))) };
    },
    async getStatus(_request: GetStatusRequest, call: Call) {
      await requireAdmin(call);
      const [backlog, known] = await Promise.all([getBacklog(sql), health()]);
      return { ...known, ...encodeBacklog(backlog) };
    },
  };
}

function adminLimitHandlers({ sql, requireAdmin }: AdminHandling) {
  return {
    async setAccountLimits(request: SetAccountLimitsRequest, call: Call) {
      await requireAdmin(call);
      const account = checkId("account_id", request.accountId);
      const { rateLimitRpm = null, concurrency = null } = request;
      const rate = await setAccountRate(sql, account, { rateLimitRpm, concurrency });
      return { accountLimits: encodeLimits(account, rate) };
    },
    async getAccountLimits(request: GetAccountLimitsRequest, call: Call) {
      await requireAdmin(call);
      const account = checkId("account_id", request.accountId);
      return { accountLimits: encodeLimits(account, await getAccountRate(sql, account)) };
    },
  };
}

function adminPriceHandlers({ sql, requireAdmin }: AdminHandling) {
  return {
    async setModelPrice(request: SetModelPriceRequest, call: Call) {
      await requireAdmin(call);
      const price = await setModelPrice(sql, {
        model: request.model,
        inputPerMtok: required("input_ngonka_per_mtok", request.inputNgonkaPerMtok),
        outputPerMtok: required("output_ngonka_per_mtok", request.outputNgonkaPerMtok),
        contextTokens: request.contextTokens ?? null,
        maxOutputTokens: request.maxOutputTokens ?? null,
        holdStepTokens: request.holdStepTokens ?? null,
        imageTokens: request.imageTokens ?? null,
        promptOverheadTokens: request.promptOverheadTokens ?? null,
        defaultMaxTokens: request.defaultMaxTokens ?? null,
        enabled: request.enabled ?? true,
      });
      return { modelPrice: encodePrice(price) };
    },
    async listModelPrices(_request: ListModelPricesRequest, call: Call) {
      await requireAdmin(call);
      return { data: (await listPrices(sql)).map(encodePrice) };
    },
  };
}

function encodeBacklog({ databaseTime, accountsSetAside, reconciliation, ...counts }: Backlog) {
  return {
    ...counts,
    databaseTime: timestampFromDate(databaseTime),
    accountsSetAside: accountsSetAside.map(({ account, reason, attempts, since, nextAt }) => ({
      ...{ accountId: account, reason, attempts },
      ...{ since: timestampFromDate(since), nextAt: timestampFromDate(nextAt) },
    })),
    ...(reconciliation && {
      reconciliation: {
        ...reconciliation,
        finishedAt: timestampFromDate(reconciliation.finishedAt),
      },
    }),
  };
}

function required(param: string, value: bigint | undefined): bigint {
  if (value === undefined) throw refuseField(param, "is required");
  return value;
}

const encodeLimits = (
  accountId: Id,
  { rateLimitRpm, concurrency }: AccountRate,
): MessageInitShape<typeof AccountLimitsSchema> => ({
  accountId,
  ...(rateLimitRpm !== null && { rateLimitRpm }),
  ...(concurrency !== null && { concurrency }),
});

const encodePrice = (price: Price): MessageInitShape<typeof ModelPriceSchema> => ({
  model: price.model,
  version: price.version,
  inputNgonkaPerMtok: price.inputPerMtok,
  outputNgonkaPerMtok: price.outputPerMtok,
  ...(price.contextTokens !== null && { contextTokens: price.contextTokens }),
  ...(price.maxOutputTokens !== null && { maxOutputTokens: price.maxOutputTokens }),
  ...(price.holdStepTokens !== null && { holdStepTokens: price.holdStepTokens }),
  ...(price.imageTokens !== null && { imageTokens: price.imageTokens }),
  ...(price.promptOverheadTokens !== null && { promptOverheadTokens: price.promptOverheadTokens }),
  ...(price.defaultMaxTokens !== null && { defaultMaxTokens: price.defaultMaxTokens }),
  enabled: price.enabled,
  createdAt: timestampFromDate(price.since),
});
