import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { adminHandlers } from "../../src/accounts/admin-rpc.js";
import { accountHandlers, authHandlers } from "../../src/accounts/rpc.js";
import { Refusal, type RefusalDetails } from "../../src/base/errors.js";
import { createLog } from "../../src/base/log.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createAuthenticator } from "../../src/edge/auth.js";
import { callOf, service } from "../../src/edge/wire/handlers.js";
import { AccountService } from "../../src/gen/keytoll/v1/account_pb.js";
import { AdminService } from "../../src/gen/keytoll/v1/admin_pb.js";
import { AuthService } from "../../src/gen/keytoll/v1/auth_pb.js";
import { KeyService } from "../../src/gen/keytoll/v1/key_pb.js";
import { createOnceWith } from "../../src/idempotency/creates.js";
import { createKeyring, type Keyring } from "../../src/keys/authenticate.js";
import { createRateLimiter } from "../../src/keys/rate-limit.js";
import { keyHandlers } from "../../src/keys/rpc.js";
import { freshDatabase } from "./database.js";

export const PEPPER = "a pepper of the tests, 32 bytes or more";
export const ADMIN_TOKEN = "an admin token of the tests, 32 bytes";
export const PASSWORD = "correct horse battery";

type Doors = Awaited<ReturnType<typeof openDoors>>;

/**
 * The handlers of accounts, keys and the operator on a database of their own, called in process.
 */
export async function openDoors() {
  const database = await freshDatabase();
  const sql = connect(database.url, { name: "test", max: 5 });
  const keyring = createKeyring(sql, [PEPPER]);
  const services = servicesOn(sql, keyring);

  /** Calls a method as the bearer of a token or key. */
  async function call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    init: MessageInitShape<I>,
    bearer?: string,
    ip = "127.0.0.1",
  ): Promise<MessageShape<O>> {
    return await callOf(services, method)(create(method.input, init), {
      authorization: bearer && `Bearer ${bearer}`,
      requestId: "00000000-0000-7000-8000-000000000000",
      signal: new AbortController().signal,
      ip,
      idempotencyKey: undefined,
      header: () => undefined,
      answerHeader: () => {},
    });
  }

  async function close(): Promise<void> {
    await keyring.stop();
    await sql.end({ timeout: 5 });
    await database.drop();
  }
  return { url: database.url, sql, keyring, call, close };
}

function servicesOn(sql: Sql, keyring: Keyring) {
  const failures = { count: async (error: unknown) => error };
  const auth = createAuthenticator({
    ...{ keyring, secrets: [PEPPER], adminToken: ADMIN_TOKEN, failures },
  });
  const { requireOwner, requireOwnerOrManager, requireAdmin, issueToken } = auth;
  const createOnce = createOnceWith(sql, [PEPPER], createLog("silent", "test"));
  const limiter = createRateLimiter({ redis: undefined, log: createLog("silent", "test") });
  const health = async () => ({ version: "test", ready: true, dependencies: [] });
  return [
    service(AuthService, authHandlers({ sql, issueToken, takeTurn: limiter.take, failures })),
    service(AccountService, accountHandlers({ sql, requireOwner })),
    service(
      KeyService,
      keyHandlers({ sql, pepper: PEPPER, createOnce, requireOwner, requireOwnerOrManager }),
    ),
    service(AdminService, adminHandlers({ sql, requireAdmin, health })),
  ];
}

let owners = 0;

/** A new owner. @returns their account and token */
export async function anOwner({ call }: Doors): Promise<{ account: string; token: string }> {
  owners += 1;
  const email = `owner${owners}@example.com`;
  const { accountId, token } = await call(AuthService.method.register, {
    email,
    password: PASSWORD,
  });
  return { account: accountId, token };
}

/** A new management key of an owner. */
export async function aManagementKey({ call }: Doors, token: string, access?: number) {
  const init = { name: "My SaaS", ...(access !== undefined && { access }) };
  const { managementKey, key } = await call(KeyService.method.createManagementKey, init, token);
  return { managementKeyId: managementKey?.id ?? "", gm: key };
}

/** A new child of a management key. */
export async function aChild(
  { call }: Doors,
  bearer: string,
  managementKeyId: string,
  fields: MessageInitShape<typeof KeyService.method.createChildKey.input> = {},
) {
  const init = { managementKeyId, name: "Client A", ...fields };
  const { childKey, key } = await call(KeyService.method.createChildKey, init, bearer);
  return { ref: { managementKeyId, childKeyId: childKey?.id ?? "" }, gc: key };
}

/** The refusal that a call must end in: its reason, and the field at fault where there is one. */
export async function refusalOf(
  call: Promise<unknown>,
): Promise<{ reason: string; message: string } & RefusalDetails> {
  try {
    await call;
  } catch (error) {
    if (error instanceof Refusal) {
      return { ...error.details, reason: error.reason, message: error.message };
    }
    throw error;
  }
  throw new Error("the call was not refused");
}
