import type { JsonObject } from "@bufbuild/protobuf";
import { refuseField } from "../base/errors.js";
import { UsageService } from "../gen/keytoll/v1/usage_pb.js";
import { csvLine } from "./csv.js";
import type { Download } from "./wire/download.js";
import type { CallContext, ServiceTable } from "./wire/handlers.js";
import { type RestRequest, type RestRoute, restRoute } from "./wire/rest.js";

const SPAN = ["from", "to", "child_id", "cursor", "limit"] as const;
/** Rows of a download that are read together: the most that a page may have. */
const ROWS = "1000";

const SUMS = ["requests", "input_tokens", "output_tokens", "cost_ngonka"] as const;
const LINES: Record<string, readonly string[]> = {
  day: ["day", ...SUMS],
  model: ["model", ...SUMS],
  child: ["child_id", "child_name", ...SUMS],
};
const RECORD = [
  ...["number", "captured_at", "authorized_at", "hold_id", "child_id", "model"],
  ...["input_tokens", "output_tokens", "cost_ngonka", "estimated"],
];

/**
 * The REST routes of UsageService: JSON by pages, or with `format=csv` all of it as one file, which
 * is read page by page as fast as it is taken.
 */
export function usageRoutes(services: ServiceTable): RestRoute[] {
  const { summarizeUsage, listUsageRecords } = UsageService.method;
  const [summary, records] = [
    restRoute(services, {
      on: "GET /api/account/usage",
      method: summarizeUsage,
      query: [...SPAN, "group_by"],
    }),
    restRoute(services, {
      on: "GET /api/account/usage/records",
      method: listUsageRecords,
      query: SPAN,
    }),
  ];
  const columnsOf = ({ query }: RestRequest) => LINES[query.get("group_by") ?? ""] ?? SUMS;
  return [withCsv(summary, "usage.csv", columnsOf), withCsv(records, "records.csv", () => RECORD)];
}

function withCsv(
  route: RestRoute,
  filename: string,
  columnsOf: (request: RestRequest) => readonly string[],
): RestRoute {
  return {
    ...route,
    async answer(request, caller) {
      const format = takeFormat(request.query);
      if (format === "json") return await route.answer(request, caller);
      for (const name of ["cursor", "limit"]) {
        if (request.query.has(name)) throw refuseField(name, "a file has no pages");
      }
      const columns = columnsOf(request);
      const pieces = piecesOf(route, request, caller, columns);
      return { type: "text/csv; charset=utf-8", filename, pieces };
    },
  };
}

function takeFormat(query: URLSearchParams): string {
  const [format = "json", ...more] = query.getAll("format");
  if (more.length > 0) throw refuseField("format", "must be given once");
  if (format !== "json" && format !== "csv") throw refuseField("format", "must be json or csv");
  query.delete("format");
  return format;
}

async function* piecesOf(
  route: RestRoute,
  request: RestRequest,
  caller: CallContext,
  columns: readonly string[],
): Download["pieces"] {
  request.query.set("limit", ROWS);
  let head = csvLine(columns);
  for (let more = true; more; ) {
    const page = (await route.answer(request, caller)) as JsonObject;
    const rows = columns === SUMS ? [page.totals] : (page.data as JsonObject[]);
    yield head + rows.map((row) => csvLine(cellsOf(row as JsonObject, columns))).join("");
    head = "";
    more = typeof page.next_cursor === "string" && columns !== SUMS;
    if (more) request.query.set("cursor", page.next_cursor as string);
  }
}

const cellsOf = (row: JsonObject, columns: readonly string[]): string[] =>
  columns.map((name) => String(row[name] ?? ""));
