import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type HoldSchema, HoldStatus, type RemainingSchema } from "../gen/keytoll/v1/hold_pb.js";
import type { HoldFacts } from "./facts.js";
import type { Authorized, Captured, HoldRequest, Remaining } from "./holds.js";
import type { HoldPart } from "./store.js";

type Hold = MessageInitShape<typeof HoldSchema>;

const sum = (amounts: (Ngonka | null)[]): Ngonka => {
  let total = 0n;
  for (const amount of amounts) total += amount ?? 0n;
  return total;
};

/** A hold from its rows, first part first. */
export function encodeHold(id: Id, parts: readonly HoldPart[]): Hold {
  const [first] = parts;
  if (!first) throw new Error("a hold without rows");
  const captured = first.outcome === "captured";
  return {
    holdId: id,
    childKeyId: first.child_key_id,
    status: captured
      ? HoldStatus.CAPTURED
      : first.outcome === null
        ? HoldStatus.OPEN
        : HoldStatus.VOIDED,
    amountNgonka: sum(parts.map((part) => part.amount)),
    capturedNgonka: sum(parts.map((part) => part.cost)),
    day: first.day,
    month: first.month.slice(0, 7),
    authorizedAt: timestampFromDate(first.authorized_at),
    ...(first.deadline && { deadline: timestampFromDate(first.deadline) }),
    ...(first.ended_at && { endedAt: timestampFromDate(first.ended_at) }),
    ...(first.usage_seq !== null && { usageNumber: first.usage_seq }),
  };
}

/** A hold that was authorized just now, without asking the database again. */
export function encodeNewHold(asked: HoldRequest, authorized: Authorized): Hold {
  const day = dayOf(authorized.authorizedAt);
  return {
    holdId: asked.id,
    childKeyId: asked.child,
    status: HoldStatus.OPEN,
    amountNgonka: authorized.amount,
    capturedNgonka: 0n,
    day,
    month: day.slice(0, 7),
    authorizedAt: timestampFromDate(authorized.authorizedAt),
    deadline: timestampFromDate(authorized.deadline),
  };
}

/** A hold that was captured just now, or before with the same content. */
export function encodeCaptured(
  id: Id,
  { child, authorizedAt }: HoldFacts,
  captured: Captured,
): Hold {
  const day = dayOf(authorizedAt);
  return {
    holdId: id,
    childKeyId: child,
    status: HoldStatus.CAPTURED,
    amountNgonka: captured.held,
    capturedNgonka: captured.cost,
    day,
    month: day.slice(0, 7),
    authorizedAt: timestampFromDate(authorizedAt),
    endedAt: timestampFromDate(captured.endedAt),
    usageNumber: captured.usageSeq,
  };
}

const dayOf = (at: Date): string => at.toISOString().slice(0, 10);

type Left = Pick<MessageShape<typeof RemainingSchema>, `${keyof Remaining}Remaining`>;

export function encodeRemaining({ daily, monthly, total }: Remaining): Left {
  const left: Left = {};
  if (daily !== null) left.dailyRemaining = daily;
  if (monthly !== null) left.monthlyRemaining = monthly;
  if (total !== null) left.totalRemaining = total;
  return left;
}
