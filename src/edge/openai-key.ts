import type { JsonObject } from "@bufbuild/protobuf";
import type { Ngonka } from "../base/money.js";
import { type ChildKey, remainingOf } from "../keys/key.js";

/**
 * A child key as its own holder sees it: amounts in units, under names that do not tell the
 * network. Used amounts count what is held, remaining amounts are net of it.
 */
export function keyBody(key: ChildKey): JsonObject {
  const units = (amount: Ngonka | null) => amount?.toString() ?? null;
  const limit = (name: string, most: Ngonka | null, used: Ngonka) => ({
    [`${name}_limit`]: units(most),
    [`${name}_used`]: units(used),
    [`${name}_remaining`]: units(remainingOf(most, used)),
  });
  return {
    object: "key",
    hint: key.hint,
    status: key.shownStatus,
    ...limit("daily", key.limitDaily, key.usedDaily),
    daily_resets_at: key.dailyResetsAt.toISOString(),
    ...limit("monthly", key.limitMonthly, key.usedMonthly),
    monthly_resets_at: key.monthlyResetsAt.toISOString(),
    ...limit("total", key.limitTotal, key.usedTotal),
    rate_limit_rpm: key.rateLimitRpm,
    models: key.models,
    expires_at: key.expiresAt?.toISOString() ?? null,
  };
}
