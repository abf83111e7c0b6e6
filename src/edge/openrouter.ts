import type { IncomingMessage, ServerResponse } from "node:http";
import type { JsonObject } from "@bufbuild/protobuf";
import { getCredits } from "../accounts/accounts.js";
import { refuse } from "../base/errors.js";
import { newId } from "../base/ids.js";
import type { Log } from "../base/log.js";
import { showAmount, type Unit } from "../base/unit.js";
import type { Sql } from "../db/sql.js";
import { KeyService } from "../gen/keytoll/v1/key_pb.js";
import { usedThisWeek } from "../holds/weeks.js";
import type { Inference } from "../inference/inference.js";
import type { Caller, Credentials, ManagementCaller } from "../keys/caller.js";
import {
  changeChildKey,
  deleteChildKey,
  getChildKey,
  getChildOfCaller,
  listChildKeysFrom,
} from "../keys/child-keys.js";
import type { ChildKey } from "../keys/key.js";
import { getManagementKey } from "../keys/management-keys.js";
import { authorizationOf, type Door, queryOf } from "./door.js";
import { openRouterRefusal } from "./openrouter-errors.js";
import { idOfHash, managedKey, ownChild, ownManagement } from "./openrouter-key.js";
import { readKeyPatch, readListQuery, readNewKey } from "./openrouter-requests.js";
import { readBody, refuseWith, sendJson } from "./wire/answer.js";
import { type CallContext, callOf, type ServiceTable } from "./wire/handlers.js";
import { callContextOf } from "./wire/rest.js";

export interface OpenRouterDeps {
  inference: Pick<Inference, "namesOnList">;
  sql: Sql;
  /** Has KeyService, which creates keys. */
  services: ServiceTable;
  /** Of all amounts. */
  unit: Unit;
  /** Tells who calls. @throws invalid_api_key */
  callerOf(shown: Credentials): Promise<Caller>;
  log: Log;
}

interface Visit {
  /** Of the path; empty where it has none. */
  hash: string;
  query: URLSearchParams;
  /** Reads it. */
  body(): Promise<Buffer>;
  call: CallContext;
}

interface Answer {
  status: number;
  body: JsonObject;
}

/** Of keys, a `gm-` key's own children; of `read_only` ones nothing but what reads. */
type Manage = (deps: OpenRouterDeps, visit: Visit, caller: ManagementCaller) => Promise<Answer>;
type Show = (deps: OpenRouterDeps, visit: Visit, caller: Caller) => Promise<Answer>;

const PAGE = 100;
const MAX_BODY_BYTES = 64 * 1024;
const KEYS = "/api/v1/keys";

/**
 * OpenRouter's management of keys: `/api/v1/keys`, `/api/v1/keys/{hash}` and `/api/v1/credits` for
 * a `gm-` key, `/api/v1/key` for any. Amounts are JSON numbers in the operator's unit.
 */
export function createOpenRouterDoor(deps: OpenRouterDeps): Door {
  return async (request, response, path) => {
    const verbs = verbsOf(path);
    if (verbs === undefined) return false;
    const requestId = newId();
    try {
      const show = verbs[request.method ?? ""];
      if (show === undefined) {
        response.setHeader("allow", Object.keys(verbs).join(", "));
        throw refuse("method_not_allowed");
      }
      const caller = await deps.callerOf(authorizationOf(request));
      const { status, body } = await show(
        deps,
        visitOf(request, response, path, requestId),
        caller,
      );
      sendJson(response, status, body, requestId);
    } catch (error) {
      refuseWith(response, error, requestId, deps.log, openRouterRefusal);
    }
    return true;
  };
}

/** True for the paths of that door. */
export const managesKeys = (path: string): boolean => verbsOf(path) !== undefined;

function verbsOf(path: string): Record<string, Show> | undefined {
  if (path === KEYS) return { GET: reading(list), POST: writing(create) };
  if (path.startsWith(`${KEYS}/`)) {
    return { GET: reading(get), PATCH: writing(update), DELETE: writing(remove) };
  }
  if (path === "/api/v1/key") return { GET: current };
  if (path === "/api/v1/credits") return { GET: reading(credits) };
  return undefined;
}

function visitOf(
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  requestId: string,
): Visit {
  return {
    hash: path.slice(KEYS.length + 1),
    query: queryOf(request),
    body: () => readBody(request, response, MAX_BODY_BYTES),
    call: {
      ...callContextOf(request, response, requestId),
      authorization: authorizationOf(request).authorization,
    },
  };
}

const reading =
  (manage: Manage): Show =>
  async (deps, visit, caller) => {
    if (caller.kind !== "management") throw refuse("wrong_key_kind");
    return await manage(deps, visit, caller);
  };

const writing = (manage: Manage): Show =>
  reading(async (deps, visit, caller) => {
    if (caller.access === "read_only") throw refuse("read_only_key");
    return await manage(deps, visit, caller);
  });

const list: Manage = async (deps, { query }, caller) => {
  const part = { ...readListQuery(query, caller.managementKey), limit: PAGE };
  const keys = await listChildKeysFrom(deps.sql, caller, caller.managementKey, part);
  return { status: 200, body: { data: await shown(deps, caller, keys) } };
};

/** As REST does, so with an `Idempotency-Key` too. */
const create: Manage = async (deps, visit, caller) => {
  const request = readNewKey(await visit.body(), deps.unit, caller.managementKey);
  const call = callOf(deps.services, KeyService.method.createChildKey);
  const { childKey, key: secret } = await call(request, visit.call);
  const ref = { managementKey: caller.managementKey, child: childKey?.id ?? "" };
  const key = await getChildKey(deps.sql, caller, ref);
  return { status: 201, body: { ...(await one(deps, caller, key)), key: secret } };
};

const get: Manage = async (deps, { hash }, caller) => {
  const key = await getChildKey(deps.sql, caller, refOf(caller, hash));
  if (key.status === "deleted") throw refuse("not_found");
  return { status: 200, body: await one(deps, caller, key) };
};

const update: Manage = async (deps, visit, caller) => {
  const ref = refOf(caller, visit.hash);
  const change = readKeyPatch(await visit.body(), deps.unit);
  const key = await changeChildKey(deps.sql, caller, ref, change);
  return { status: 200, body: await one(deps, caller, key) };
};

const remove: Manage = async (deps, { hash }, caller) => {
  await deleteChildKey(deps.sql, caller, refOf(caller, hash));
  return { status: 200, body: { deleted: true } };
};

/** What was paid in, and what of it is spent or held: their difference is what is left. */
const credits: Manage = async ({ sql, unit }, _visit, { account }) => {
  const { credited, available } = await getCredits(sql, account);
  const data = {
    total_credits: showAmount(unit, credited),
    total_usage: showAmount(unit, credited - available),
  };
  return { status: 200, body: { data } };
};

const current: Show = async ({ sql, unit, inference }, _visit, caller) => {
  if (caller.kind === "management") {
    const key = await getManagementKey(sql, caller, caller.managementKey);
    return { status: 200, body: ownManagement(key) };
  }
  if (caller.kind !== "child") throw refuse("wrong_key_kind");
  const key = await getChildOfCaller(sql, caller);
  const weeks = await usedThisWeek(sql, caller.account, [key]);
  const models = await inference.namesOnList(key);
  return { status: 200, body: ownChild({ ...key, models }, weeks.get(key.id) ?? 0n, unit) };
};

const refOf = ({ managementKey }: ManagementCaller, hash: string) => ({
  managementKey,
  child: idOfHash(hash),
});

async function shown(
  { sql, unit }: OpenRouterDeps,
  { account }: ManagementCaller,
  keys: ChildKey[],
): Promise<JsonObject[]> {
  const weeks = await usedThisWeek(sql, account, keys);
  return keys.map((key) => managedKey(key, weeks.get(key.id) ?? 0n, unit));
}

async function one(
  deps: OpenRouterDeps,
  caller: ManagementCaller,
  key: ChildKey,
): Promise<JsonObject> {
  const [data = {}] = await shown(deps, caller, [key]);
  return { data };
}
