import type { FieldMask, Timestamp } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import { checkText } from "../base/field.js";
import { SECOND } from "../base/time.js";
import {
  Access,
  CostFields,
  type CreateChildKeyRequest,
  KeyStatus,
  type ListChildKeysRequest,
  type UpdateChildKeyRequest,
  type UpdateManagementKeyRequest,
} from "../gen/keytoll/v1/key_pb.js";
import type { Access as AccessWord, CostFields as CostWord } from "./caller.js";
import type { ChildPatch } from "./child-keys.js";
import type { ChildFields, KeyStatus as StatusWord } from "./key.js";
import type { ManagementPatch } from "./management-keys.js";
import type { ChildFilter } from "./store-child.js";

const MAX_QUERY = 100;
/** The years 1 to 9999, which is what a Timestamp may carry. */
const FIRST_SECOND = -62_135_596_800n;
const LAST_SECOND = 253_402_300_799n;

/**
 * A moment as a Date, cut to milliseconds; null where it is absent. @throws invalid_request_error
 */
export function readTime(param: string, time: Timestamp | undefined): Date | null {
  if (time === undefined) return null;
  const valid =
    time.seconds >= FIRST_SECOND &&
    time.seconds <= LAST_SECOND &&
    time.nanos >= 0 &&
    time.nanos < 1_000_000_000;
  if (!valid) throw refuseField(param, "is not a time");
  return new Date(Number(time.seconds) * SECOND + Math.floor(time.nanos / 1_000_000));
}

/** Access of a new key; unspecified means read_write. @throws invalid_request_error */
export const readAccess = (access: Access): AccessWord =>
  access === Access.UNSPECIFIED ? "read_write" : readNewAccess(access);

function readNewAccess(access: Access | undefined): AccessWord {
  if (access === Access.READ_WRITE) return "read_write";
  if (access === Access.READ_ONLY) return "read_only";
  throw refuseField("access", "must be read_write or read_only");
}

const COST_WORDS = {
  [CostFields.NEUTRAL]: "neutral",
  [CostFields.GONKA]: "gonka",
  [CostFields.NONE]: "none",
} as const satisfies Record<number, CostWord>;

/** How a new key's children are told costs; unspecified means neutral. @throws invalid_request_error */
export const readCostFields = (fields: CostFields): CostWord =>
  fields === CostFields.UNSPECIFIED ? "neutral" : readNewCostFields(fields);

function readNewCostFields(fields: CostFields | undefined): CostWord {
  const word = COST_WORDS[fields as keyof typeof COST_WORDS];
  if (word === undefined) throw refuseField("cost_fields", "must be neutral, gonka or none");
  return word;
}

const STATUS_WORDS = {
  [KeyStatus.ACTIVE]: "active",
  [KeyStatus.DISABLED]: "disabled",
  [KeyStatus.EXPIRED]: "expired",
  [KeyStatus.DELETED]: "deleted",
} as const satisfies Record<number, StatusWord>;

/** Filters of a list of children. @throws invalid_request_error */
export function readChildFilter({ status, q }: ListChildKeysRequest): ChildFilter {
  if (status !== undefined && !(status in STATUS_WORDS)) {
    throw refuseField("status", "must be active, disabled, expired or deleted");
  }
  const word = STATUS_WORDS[status as keyof typeof STATUS_WORDS] ?? null;
  const text = checkText("q", q ?? "", 0, MAX_QUERY);
  return { status: word, q: text === "" ? null : text };
}

export function readNewChild(request: CreateChildKeyRequest): ChildFields {
  return {
    name: request.name,
    limitDaily: request.limitDailyNgonka ?? null,
    limitMonthly: request.limitMonthlyNgonka ?? null,
    limitTotal: request.limitTotalNgonka ?? null,
    rateLimitRpm: request.rateLimitRpm ?? null,
    expiresAt: readTime("expires_at", request.expiresAt),
    models: request.models,
    metadata: { ...request.metadata },
  };
}

/** What each path of a child's mask changes. */
const CHILD_FIELDS: Record<string, (request: UpdateChildKeyRequest) => ChildPatch> = {
  name: ({ name }) => ({ name: name ?? refuseRemoval("name") }),
  status: ({ status }) => ({ status: readNewStatus(status) }),
  limit_daily_ngonka: ({ limitDailyNgonka }) => ({ limitDaily: limitDailyNgonka ?? null }),
  limit_monthly_ngonka: ({ limitMonthlyNgonka }) => ({ limitMonthly: limitMonthlyNgonka ?? null }),
  limit_total_ngonka: ({ limitTotalNgonka }) => ({ limitTotal: limitTotalNgonka ?? null }),
  rate_limit_rpm: ({ rateLimitRpm }) => ({ rateLimitRpm: rateLimitRpm ?? null }),
  expires_at: ({ expiresAt }) => ({ expiresAt: readTime("expires_at", expiresAt) }),
  models: ({ models }) => ({ models: models.length === 0 ? null : models }),
  metadata: ({ metadata }) => ({ metadata: { ...metadata } }),
};

const MANAGEMENT_FIELDS: Record<string, (request: UpdateManagementKeyRequest) => ManagementPatch> =
  {
    name: ({ name }) => ({ name: name ?? refuseRemoval("name") }),
    status: ({ status }) => ({ status: readNewStatus(status) }),
    access: ({ access }) => ({ access: readNewAccess(access) }),
    cost_fields: ({ costFields }) => ({ costFields: readNewCostFields(costFields) }),
    expires_at: ({ expiresAt }) => ({ expiresAt: readTime("expires_at", expiresAt) }),
  };

/**
 * The fields that the mask names. @throws invalid_request_error for an empty mask and for unknown
 * paths
 */
export const readChildPatch = (request: UpdateChildKeyRequest): ChildPatch =>
  readPatch(request, CHILD_FIELDS);

/**
 * The fields that the mask names. @throws invalid_request_error for an empty mask and for unknown
 * paths
 */
export const readManagementPatch = (request: UpdateManagementKeyRequest): ManagementPatch =>
  readPatch(request, MANAGEMENT_FIELDS);

function readPatch<Request extends { updateMask?: FieldMask | undefined }, Patch extends object>(
  request: Request,
  fields: Record<string, (request: Request) => Patch>,
): Patch {
  const paths = request.updateMask?.paths ?? [];
  if (paths.length === 0) throw refuseField("update_mask", "names no field to change");
  const parts = paths.map((path) => {
    const read = Object.hasOwn(fields, path) ? fields[path] : undefined;
    if (!read) throw refuseField("update_mask", `"${path.slice(0, 60)}" cannot be changed`);
    return read(request);
  });
  return Object.assign({}, ...parts);
}

function readNewStatus(status: KeyStatus | undefined): "active" | "disabled" {
  if (status === KeyStatus.ACTIVE) return "active";
  if (status === KeyStatus.DISABLED) return "disabled";
  throw refuseField("status", "must be active or disabled");
}

function refuseRemoval(param: string): never {
  throw refuseField(param, "cannot be removed");
}
