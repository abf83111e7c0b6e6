import type { JsonObject } from "@bufbuild/protobuf";
import { refuse } from "../base/errors.js";
import { type Id, isId } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { showAmount, type Unit } from "../base/unit.js";
import { type ChildKey, type ManagementKey, remainingOf } from "../keys/key.js";
import { keyBody } from "./openai-key.js";

/** How often a limit begins anew; null: never. */
export type Reset = "daily" | "monthly" | null;

interface Limit {
  reset: Reset;
  most: Ngonka | null;
  used: Ngonka;
}

/** No provider's own keys are used here. */
const BYOK = {
  include_byok_in_limit: false,
  ...{ byok_usage: 0, byok_usage_daily: 0, byok_usage_weekly: 0, byok_usage_monthly: 0 },
};

/** A child's id as these clients know it: its UUID's 32 hexadecimal digits. */
export const hashOf = (child: Id): string => child.replaceAll("-", "");

/** @throws not_found  for what is no hash at all: no such key can be there */
export function idOfHash(hash: string): Id {
  const parts = /^([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})$/.exec(hash);
  const id = parts?.slice(1).join("-") ?? "";
  if (!isId(id)) throw refuse("not_found");
  return id;
}

/** The one limit that these clients know of a key: that of its shortest period. */
export function limitOf(key: ChildKey): Limit {
  if (key.limitDaily !== null) {
    return { reset: "daily", most: key.limitDaily, used: key.usedDaily };
  }
  if (key.limitMonthly !== null) {
    return { reset: "monthly", most: key.limitMonthly, used: key.usedMonthly };
  }
  return { reset: null, most: key.limitTotal, used: key.usedTotal };
}

/**
 * A child key as whoever manages it sees it. Used amounts count open holds, remaining amounts are
 * net of them. Beside the one limit stand all three that a key can have.
 */
export function managedKey(key: ChildKey, usedWeekly: Ngonka, unit: Unit): JsonObject {
  const show = (amount: Ngonka | null) => (amount === null ? null : showAmount(unit, amount));
  return {
    hash: hashOf(key.id),
    name: key.name,
    disabled: key.status === "disabled",
    ...spending(key, usedWeekly, unit),
    limit_daily: show(key.limitDaily),
    limit_monthly: show(key.limitMonthly),
    limit_total: show(key.limitTotal),
    created_at: key.createdAt.toISOString(),
    updated_at: key.updatedAt.toISOString(),
    external_user: null,
    workspace_id: key.managementKey,
  };
}

function spending(key: ChildKey, usedWeekly: Ngonka, unit: Unit): JsonObject {
  const show = (amount: Ngonka | null) => (amount === null ? null : showAmount(unit, amount));
  const { reset, most, used } = limitOf(key);
  return {
    label: key.hint,
    limit: show(most),
    limit_remaining: show(remainingOf(most, used)),
    limit_reset: reset,
    usage: show(key.usedTotal),
    usage_daily: show(key.usedDaily),
    usage_weekly: show(usedWeekly),
    usage_monthly: show(key.usedMonthly),
    ...BYOK,
    creator_user_id: null,
    expires_at: key.expiresAt?.toISOString() ?? null,
  };
}

/** A child key as it sees itself: our own form, and in `data` the one that these clients read. */
export const ownChild = (key: ChildKey, usedWeekly: Ngonka, unit: Unit): JsonObject => ({
  ...keyBody(key),
  data: {
    ...spending(key, usedWeekly, unit),
    ...standing(false),
    workspace_id: null,
    rate_limit: rateLimit(key.rateLimitRpm),
  },
});

/** A management key as it sees itself. It spends nothing. */
export const ownManagement = (key: ManagementKey): JsonObject => ({
  object: "key",
  hint: key.hint,
  status: key.shownStatus,
  access: key.access,
  expires_at: key.expiresAt?.toISOString() ?? null,
  data: {
    label: key.hint,
    ...{ limit: null, limit_remaining: null, limit_reset: null },
    ...{ usage: 0, usage_daily: 0, usage_weekly: 0, usage_monthly: 0 },
    ...BYOK,
    creator_user_id: null,
    expires_at: key.expiresAt?.toISOString() ?? null,
    ...standing(true),
    workspace_id: key.id,
    rate_limit: rateLimit(null),
  },
});

const standing = (manages: boolean): JsonObject => ({
  is_free_tier: false,
  is_management_key: manages,
  is_provisioning_key: manages,
  organization_id: null,
  allowed_data_regions: [],
  free_model_daily_requests: { limit: 0, used: 0, remaining: 0 },
});

/** -1: no limit. */
const rateLimit = (rpm: number | null): JsonObject => ({
  requests: rpm ?? -1,
  interval: "60s",
  note: rpm === null ? "no limit of requests" : "requests in any 60 seconds",
});
