import { create, type JsonObject, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import { checkInteger } from "../base/field.js";
import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { readAmount, type Unit } from "../base/unit.js";
import {
  type CreateChildKeyRequest,
  CreateChildKeyRequestSchema,
} from "../gen/keytoll/v1/key_pb.js";
import type { ChildPatch } from "../keys/child-keys.js";
import type { ChildKey } from "../keys/key.js";
import { limitOf, type Reset } from "./openrouter-key.js";
import { readTime } from "./wire/from-rest.js";
import { numberTexts } from "./wire/number-texts.js";
import { parseBody } from "./wire/rest.js";

const MAX_OFFSET = 1_000_000_000;
const BOTH = ["name", "limit", "limit_reset", "include_byok_in_limit"];
const OF_NEW = new Set([...BOTH, "expires_at", "creator_user_id", "workspace_id"]);
const OF_PATCH = new Set([...BOTH, "disabled"]);
const LIST_QUERY = ["offset", "include_disabled", "workspace_id"];
const MAX_SHOWN = 60;

/**
 * Reads the body that makes a key.
 *
 * @param workspace the only one that there is
 * @throws invalid_request_error by the field's name
 */
export function readNewKey(body: Buffer, unit: Unit, workspace: Id): CreateChildKeyRequest {
  const json = parseBody(body);
  checkNames(json, OF_NEW);
  const { name, creator_user_id: creator, expires_at: expires } = json;
  if (typeof name !== "string") throw refuseField("name", "must be a string");
  if (creator !== undefined && creator !== null) {
    throw refuseField("creator_user_id", "is not supported");
  }
  checkWorkspace(json.workspace_id, workspace);
  checkByok(json);
  const [limit, reset] = [readLimit(body, json, unit) ?? null, readReset(json) ?? null];
  refuseIdleReset(reset, limit);
  const fields: MessageInitShape<typeof CreateChildKeyRequestSchema> = {
    managementKeyId: workspace,
    name,
    ...(limit !== null && { [`${fieldOf(reset)}Ngonka`]: limit }),
    ...(expires && { expiresAt: timestampFromDate(readTime(expires, "expires_at")) }),
  };
  return create(CreateChildKeyRequestSchema, fields);
}

/**
 * Reads the body that changes a key. A limit keeps its period, and a period its limit, where the
 * body sets only one of them. Limits of other periods stay.
 *
 * @returns the change, given the key as it is
 * @throws invalid_request_error by the field's name; so does the change
 */
export function readKeyPatch(body: Buffer, unit: Unit): (before: ChildKey) => ChildPatch {
  const json = parseBody(body);
  checkNames(json, OF_PATCH);
  if (Object.keys(json).length === 0) throw refuseField("body", "names no field to change");
  const { name, disabled } = json;
  if (name !== undefined && typeof name !== "string") throw refuseField("name", "must be a string");
  if (disabled !== undefined && typeof disabled !== "boolean") {
    throw refuseField("disabled", "must be true or false");
  }
  checkByok(json);
  const [limit, reset] = [readLimit(body, json, unit), readReset(json)];
  return (before) => ({
    ...(name !== undefined && { name }),
    ...(disabled !== undefined && { status: disabled ? "disabled" : "active" }),
    ...((limit !== undefined || reset !== undefined) && limitPatch(before, limit, reset)),
  });
}

function limitPatch(
  before: ChildKey,
  limit: Ngonka | null | undefined,
  reset: Reset | undefined,
): ChildPatch {
  const now = limitOf(before);
  const most = limit === undefined ? now.most : limit;
  refuseIdleReset(reset, most);
  const removed = { [fieldOf(now.reset)]: null };
  if (most === null) return removed;
  return { ...removed, [fieldOf(reset === undefined ? now.reset : reset)]: most };
}

const fieldOf = (reset: Reset) =>
  reset === null
    ? "limitTotal"
    : ({ daily: "limitDaily", monthly: "limitMonthly" } as const)[reset];

function refuseIdleReset(reset: Reset | undefined, limit: Ngonka | null): void {
  if (limit === null && reset) throw refuseField("limit_reset", "needs a limit");
}

/** Undefined where the body says nothing of it. */
function readLimit(body: Buffer, { limit }: JsonObject, unit: Unit): Ngonka | null | undefined {
  if (limit === undefined || limit === null) return limit;
  if (typeof limit !== "number") throw refuseField("limit", "must be a number or null");
  const amount = readAmount(unit, numberTexts(body.toString("utf8")).get("limit") ?? "");
  if (typeof amount === "string") throw refuseField("limit", amount);
  return amount;
}

/** Undefined where the body says nothing of it. */
function readReset({ limit_reset: reset }: JsonObject): Reset | undefined {
  if (reset === undefined || reset === null) return reset;
  if (reset === "daily" || reset === "monthly") return reset;
  const problem =
    'must be "daily", "monthly" or null: a limit resets by the day, the month or never';
  throw refuseField(
    "limit_reset",
    reset === "weekly" ? `"weekly" is not supported; ${problem}` : problem,
  );
}

function checkByok({ include_byok_in_limit: byok }: JsonObject): void {
  if (byok === undefined || byok === false) return;
  throw refuseField(
    "include_byok_in_limit",
    "only false is supported: no keys of providers are used",
  );
}

function checkNames(json: JsonObject, known: ReadonlySet<string>): void {
  const unknown = Object.keys(json).find((name) => !known.has(name));
  if (unknown !== undefined) throw refuseField(unknown.slice(0, MAX_SHOWN), "unknown field");
}

/** The management key itself is the only workspace. */
function checkWorkspace(value: JsonValue | undefined, workspace: Id): void {
  if (value === undefined || value === null || value === workspace) return;
  throw refuseField("workspace_id", "no such workspace");
}

/** Which part of the list of keys is wanted. @throws invalid_request_error by the parameter's name */
export function readListQuery(
  query: URLSearchParams,
  workspace: Id,
): { offset: number; disabled: boolean } {
  const unknown = [...query.keys()].find((name) => !LIST_QUERY.includes(name));
  if (unknown !== undefined) {
    throw refuseField(unknown.slice(0, MAX_SHOWN), "unknown query parameter");
  }
  const disabled = query.get("include_disabled") ?? "false";
  if (disabled !== "true" && disabled !== "false") {
    throw refuseField("include_disabled", "must be true or false");
  }
  checkWorkspace(query.get("workspace_id") ?? undefined, workspace);
  return { offset: readCount(query, "offset", 0, MAX_OFFSET), disabled: disabled === "true" };
}

/** A whole number in a query, 0 to `most`. @throws invalid_request_error */
export function readCount(
  query: URLSearchParams,
  name: string,
  absent: number,
  most: number,
): number {
  const text = query.get(name);
  if (text === null) return absent;
  return checkInteger(name, /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN, 0, most);
}
