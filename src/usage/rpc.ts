import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import type { Sql } from "../db/sql.js";
import {
  type ListUsageRecordsRequest,
  type SummarizeUsageRequest,
  UsageGroup,
  type UsageLineSchema,
  type UsageRecordSchema,
} from "../gen/keytoll/v1/usage_pb.js";
import type { Manager } from "../keys/caller.js";
import { readTime } from "../keys/requests.js";
import type { Group, Line, Totals, UsageRecord } from "./store.js";
import { listUsageRecords, summarizeUsage } from "./usage.js";

interface Call {
  authorization: string | undefined;
}

export interface UsageHandling {
  sql: Sql;
  requireOwnerOrManager(call: Call, need: "read"): Promise<Manager>;
}

/** The handlers of UsageService. */
export const usageHandlers = ({ sql, requireOwnerOrManager }: UsageHandling) => ({
  async summarizeUsage(request: SummarizeUsageRequest, call: Call) {
    const manager = await requireOwnerOrManager(call, "read");
    const group = readGroup(request.groupBy);
    const wanted = { ...wantedOf(request), group };
    const { totals, lines, nextCursor } = await summarizeUsage(sql, manager, wanted);
    return {
      totals: encodeTotals(totals),
      data: lines.map((line) => encodeLine(line, group)),
      ...(nextCursor !== undefined && { nextCursor }),
    };
  },

  async listUsageRecords(request: ListUsageRecordsRequest, call: Call) {
    const manager = await requireOwnerOrManager(call, "read");
    const { records, nextCursor } = await listUsageRecords(sql, manager, wantedOf(request));
    return {
      data: records.map(encodeRecord),
      ...(nextCursor !== undefined && { nextCursor }),
    };
  },
});

function wantedOf(request: SummarizeUsageRequest | ListUsageRecordsRequest) {
  const { childId: child, cursor, limit } = request;
  const [from, to] = [readTime("from", request.from), readTime("to", request.to)];
  return { from, to, child, cursor, limit };
}

const GROUPS: Record<number, Group | null> = {
  [UsageGroup.UNSPECIFIED]: null,
  [UsageGroup.DAY]: "day",
  [UsageGroup.MODEL]: "model",
  [UsageGroup.CHILD]: "child",
};

function readGroup(value: UsageGroup): Group | null {
  const group = GROUPS[value];
  if (group === undefined) throw refuseField("group_by", "must be day, model or child");
  return group;
}

const encodeTotals = (totals: Totals) => ({
  requests: totals.requests,
  inputTokens: totals.inputTokens,
  outputTokens: totals.outputTokens,
  costNgonka: totals.cost,
});

const encodeLine = (line: Line, group: Group | null): MessageInitShape<typeof UsageLineSchema> => ({
  ...(group === "day" && { day: line.key }),
  ...(group === "model" && { model: line.key }),
  ...(group === "child" && { childId: line.key, childName: line.name ?? "" }),
  ...encodeTotals(line),
});

const encodeRecord = (record: UsageRecord): MessageInitShape<typeof UsageRecordSchema> => ({
  number: record.number,
  holdId: record.hold,
  childId: record.child,
  ...(record.model !== null && { model: record.model }),
  ...(record.inputTokens !== null && { inputTokens: record.inputTokens }),
  ...(record.outputTokens !== null && { outputTokens: record.outputTokens }),
  costNgonka: record.cost,
  estimated: record.estimated,
  authorizedAt: timestampFromDate(record.authorizedAt),
  capturedAt: timestampFromDate(record.capturedAt),
});
