import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { checkId, checkPage } from "../base/field.js";
import type { Sql, Tx } from "../db/sql.js";
import {
  Access,
  type ChildKeySchema,
  CostFields,
  type CreateChildKeyRequest,
  type CreateManagementKeyRequest,
  type DeleteChildKeyRequest,
  type DeleteManagementKeyRequest,
  type GetChildKeyRequest,
  type GetManagementKeyRequest,
  KeyService,
  KeyStatus,
  type ListChildKeysRequest,
  type ListManagementKeysRequest,
  type ManagementKeySchema,
  type RotateChildKeyRequest,
  type RotateManagementKeyRequest,
  type UpdateChildKeyRequest,
  type UpdateManagementKeyRequest,
} from "../gen/keytoll/v1/key_pb.js";
import type { CreateOnce, KeyedCall } from "../idempotency/creates.js";
import type { Manager, OwnerCaller } from "./caller.js";
import { changeKeys } from "./changes.js";
import * as children from "./child-keys.js";
import { type ChildKey, type ManagementKey, remainingOf } from "./key.js";
import * as management from "./management-keys.js";
import {
  readAccess,
  readChildFilter,
  readChildPatch,
  readCostFields,
  readManagementPatch,
  readNewChild,
  readTime,
} from "./requests.js";

interface Call extends KeyedCall {
  authorization: string | undefined;
  ip: string;
}

export interface KeyHandling {
  sql: Sql;
  /** Makes the hashes of new secrets. */
  pepper: string;
  /** Makes what comes with an idempotency key once. */
  createOnce: CreateOnce;
  requireOwner(call: Call): Promise<OwnerCaller>;
  requireOwnerOrManager(call: Call, need: "read" | "write"): Promise<Manager>;
}

/** The handlers of KeyService. */
export const keyHandlers = (handling: KeyHandling) => ({
  ...managementHandlers(handling),
  ...childHandlers(handling),
});

function managementHandlers(handling: KeyHandling) {
  const { sql, pepper, createOnce, requireOwner, requireOwnerOrManager } = handling;
  const { createManagementKey, rotateManagementKey } = KeyService.method;
  const idOf = (request: { managementKeyId: string }) =>
    checkId("management_key_id", request.managementKeyId);
  return {
    async createManagementKey(request: CreateManagementKeyRequest, call: Call) {
      const owner = await requireOwner(call);
      const fields = {
        name: request.name,
        access: readAccess(request.access),
        costFields: readCostFields(request.costFields),
        expiresAt: readTime("expires_at", request.expiresAt),
      };
      const creating = { call, scope: owner.account, method: createManagementKey, request };
      return await createOnce(creating, async (db) => {
        const { key, secret } = await management.createManagementKey(db, owner, fields, pepper);
        return { managementKey: encodeManagementKey(key), key: secret };
      });
    },
    async getManagementKey(request: GetManagementKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "read");
      const key = await management.getManagementKey(sql, manager, idOf(request));
      return { managementKey: encodeManagementKey(key) };
    },
    async listManagementKeys(request: ListManagementKeysRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "read");
      const page = await management.listManagementKeys(sql, manager, checkPage(request));
      return { ...page, data: page.data.map(encodeManagementKey) };
    },
    async updateManagementKey(request: UpdateManagementKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "write");
      const patch = readManagementPatch(request);
      const key = await management.changeManagementKey(sql, manager, idOf(request), patch);
      return { managementKey: encodeManagementKey(key) };
    },
    async deleteManagementKey(request: DeleteManagementKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "write");
      const key = await management.deleteManagementKey(sql, manager, idOf(request));
      return { managementKey: encodeManagementKey(key) };
    },
    async rotateManagementKey(request: RotateManagementKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "write");
      const how = { graceSeconds: request.graceSeconds ?? 0, pepper };
      const creating = { call, ...creatorOf(manager), method: rotateManagementKey, request };
      return await createOnce(creating, async (db) => {
        const rotated = await management.rotateManagementKey(db, manager, idOf(request), how);
        return {
          managementKey: encodeManagementKey(rotated.key),
          key: rotated.secret,
          previousKeyExpiresAt: timestampFromDate(rotated.previousUntil),
        };
      });
    },
  };
}

function childHandlers({ sql, pepper, createOnce, requireOwnerOrManager }: KeyHandling) {
  const { createChildKey, rotateChildKey } = KeyService.method;
  const parentOf = (request: { managementKeyId: string }) =>
    checkId("management_key_id", request.managementKeyId);
  const refOf = (request: { managementKeyId: string; childKeyId: string }) => ({
    managementKey: parentOf(request),
    child: checkId("child_key_id", request.childKeyId),
  });
  return {
    async createChildKey(request: CreateChildKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "write");
      const [parent, fields] = [parentOf(request), readNewChild(request)];
      const creating = { call, ...creatorOf(manager), method: createChildKey, request };
      return await createOnce(creating, async (db) => {
        const { key, secret } = await children.createChildKey(db, manager, parent, fields, pepper);
        return { childKey: encodeChildKey(key), key: secret };
      });
    },
    async getChildKey(request: GetChildKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "read");
      const key = await children.getChildKey(sql, manager, refOf(request));
      return { childKey: encodeChildKey(key) };
    },
    async listChildKeys(request: ListChildKeysRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "read");
      const [parent, filter] = [parentOf(request), readChildFilter(request)];
      const page = await children.listChildKeys(sql, manager, parent, filter, checkPage(request));
      return { ...page, data: page.data.map(encodeChildKey) };
    },
    async updateChildKey(request: UpdateChildKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "write");
      const patch = readChildPatch(request);
      const key = await children.changeChildKey(sql, manager, refOf(request), patch);
      return { childKey: encodeChildKey(key) };
    },
    async deleteChildKey(request: DeleteChildKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "write");
      const key = await children.deleteChildKey(sql, manager, refOf(request));
      return { childKey: encodeChildKey(key) };
    },
    async rotateChildKey(request: RotateChildKeyRequest, call: Call) {
      const manager = await requireOwnerOrManager(call, "write");
      const how = { graceSeconds: request.graceSeconds ?? 0, pepper };
      const creating = { call, ...creatorOf(manager), method: rotateChildKey, request };
      return await createOnce(creating, async (db) => {
        const rotated = await children.rotateChildKey(db, manager, refOf(request), how);
        return {
          childKey: encodeChildKey(rotated.key),
          key: rotated.secret,
          previousKeyExpiresAt: timestampFromDate(rotated.previousUntil),
        };
      });
    },
  };
}

/** Who creates. A management key that was stopped meanwhile gets no old answer, either. */
const creatorOf = (manager: Manager) => ({
  scope: manager.kind === "owner" ? manager.account : manager.managementKey,
  checkAgain: (tx: Tx) => changeKeys(tx, manager, async () => {}),
});

const STATUS = {
  active: KeyStatus.ACTIVE,
  disabled: KeyStatus.DISABLED,
  expired: KeyStatus.EXPIRED,
  deleted: KeyStatus.DELETED,
} as const;
const COST_FIELDS = {
  neutral: CostFields.NEUTRAL,
  gonka: CostFields.GONKA,
  none: CostFields.NONE,
} as const;

const ACCESS = { read_write: Access.READ_WRITE, read_only: Access.READ_ONLY } as const;

export function encodeManagementKey(
  key: ManagementKey,
): MessageInitShape<typeof ManagementKeySchema> {
  return {
    id: key.id,
    name: key.name,
    hint: key.hint,
    status: STATUS[key.shownStatus],
    access: ACCESS[key.access],
    costFields: COST_FIELDS[key.costFields],
    ...(key.expiresAt && { expiresAt: timestampFromDate(key.expiresAt) }),
    createdAt: timestampFromDate(key.createdAt),
  };
}

export function encodeChildKey(key: ChildKey): MessageInitShape<typeof ChildKeySchema> {
  return {
    id: key.id,
    managementKeyId: key.managementKey,
    name: key.name,
    hint: key.hint,
    status: STATUS[key.shownStatus],
    ...presentOf({
      limitDailyNgonka: key.limitDaily,
      limitMonthlyNgonka: key.limitMonthly,
      limitTotalNgonka: key.limitTotal,
      dailyRemaining: remainingOf(key.limitDaily, key.usedDaily),
      monthlyRemaining: remainingOf(key.limitMonthly, key.usedMonthly),
      totalRemaining: remainingOf(key.limitTotal, key.usedTotal),
      rateLimitRpm: key.rateLimitRpm,
      expiresAt: key.expiresAt && timestampFromDate(key.expiresAt),
      lastUsedAt: key.lastUsedAt && timestampFromDate(key.lastUsedAt),
    }),
    models: key.models ?? [],
    usedDailyNgonka: key.usedDaily,
    usedMonthlyNgonka: key.usedMonthly,
    usedTotalNgonka: key.usedTotal,
    dailyResetsAt: timestampFromDate(key.dailyResetsAt),
    monthlyResetsAt: timestampFromDate(key.monthlyResetsAt),
    requestsTotal: key.requestsTotal,
    metadata: key.metadata,
    createdAt: timestampFromDate(key.createdAt),
    updatedAt: timestampFromDate(key.updatedAt),
  };
}

/** The fields that are not null: an absent field is how the wire says null. */
function presentOf<T extends object>(fields: T): { [K in keyof T]?: NonNullable<T[K]> } {
  const present = Object.entries(fields).filter(([, value]) => value !== null);
  return Object.fromEntries(present) as { [K in keyof T]?: NonNullable<T[K]> };
}
