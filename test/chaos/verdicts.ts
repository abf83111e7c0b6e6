import { type Ngonka, priceOf } from "../../src/base/money.js";
import type { Sql } from "../../src/db/sql.js";
import type { Asked, Complaint, Kept, Served } from "./books.js";
import { PRICE } from "./shops.js";

/** A hold as the database has it, all its parts together. */
export interface Row {
  id: string;
  child: string;
  fingerprint: bigint;
  amount: Ngonka;
  /** Null while it is open. */
  outcome: "captured" | "voided" | "swept" | null;
  /** Usage records that it has. */
  records: number;
  cost: Ngonka | null;
  estimated: boolean | null;
  endedAt: Date | null;
}

interface Rule<Case> {
  what: string;
  broken(it: Case): boolean;
}

/** A backend's hold beside its row. */
interface KeptCase {
  kept: Kept;
  row: Row;
}

/** A request beside its row and what the upstream did for it, where there is such a thing. */
interface AskedCase {
  asked: Asked;
  row: Row | undefined;
  served: Served | undefined;
}

const KEPT_RULES: Rule<KeptCase>[] = [
  {
    what: "refused, but there",
    broken: ({ kept }) => kept.authorized === "refused" && !kept.inDoubt,
  },
  { what: "of another child", broken: ({ kept, row }) => row.child !== kept.child },
  { what: "has several usage records", broken: ({ row }) => row.records > 1 },
  {
    what: "swept before its deadline",
    broken: ({ kept, row }) =>
      row.outcome === "swept" && (row.endedAt?.getTime() ?? 0) < kept.deadline,
  },
  {
    what: "captured, but not at what was asked",
    broken: ({ kept: { end }, row }) =>
      row.outcome === "captured" && (end?.kind !== "capture" || row.cost !== end.cost),
  },
  {
    what: "acknowledged as captured, but is not",
    broken: ({ kept: { end }, row }) =>
      end?.outcome === "acknowledged" && end.kind === "capture" && row.outcome !== "captured",
  },
  {
    // A void of what was swept meanwhile is granted: it is at zero either way
    what: "acknowledged as voided, but is not",
    broken: ({ kept: { end }, row }) =>
      end?.outcome === "acknowledged" && end.kind === "void" && !isAtZero(row),
  },
  {
    what: "its end was refused, though it was not swept",
    broken: ({ kept: { end }, row }) => end?.outcome === "refused" && row.outcome !== "swept",
  },
];

const isPaid = (row: Row | undefined): row is Row => row?.outcome === "captured";
const isAtZero = (row: Row): boolean => row.outcome === "voided" || row.outcome === "swept";

const ASKED_RULES: Rule<AskedCase>[] = [
  {
    what: "the upstream was asked without a hold",
    broken: ({ row, served }) => served !== undefined && row === undefined,
  },
  { what: "the upstream was asked twice", broken: ({ served }) => (served?.times ?? 0) > 1 },
  {
    what: "another child has paid",
    broken: ({ asked, row }) => row !== undefined && row.child !== asked.child,
  },
  { what: "has several usage records", broken: ({ row }) => (row?.records ?? 0) > 1 },
  {
    what: "acknowledged, but not on record",
    broken: ({ asked, row }) => asked.outcome === "acknowledged" && !isPaid(row),
  },
  {
    what: "acknowledged at another cost than recorded",
    broken: ({ asked, row }) =>
      asked.outcome === "acknowledged" && isPaid(row) && row.cost !== asked.cost,
  },
  {
    what: "refused, but paid",
    broken: ({ asked, row }) => asked.outcome === "refused" && isPaid(row),
  },
  {
    what: "paid, but no upstream was asked",
    broken: ({ row, served }) => isPaid(row) && served === undefined,
  },
  {
    what: "paid at another cost than the upstream reports",
    broken: ({ row, served }) =>
      isPaid(row) && !row.estimated && row.cost !== dueOf(row, served?.usage),
  },
];

/** Names what a backend's hold and its row do not agree on. */
export const judgeKept = (it: KeptCase): Complaint[] => judge(KEPT_RULES, it, it.kept.id, it);

/** Names what a request, its row and the upstream's book do not agree on. */
export function judgeAsked(it: AskedCase): Complaint[] {
  return judge(ASKED_RULES, it, it.row?.id ?? `request ${it.asked.no}`, it);
}

function judge<Case>(rules: Rule<Case>[], it: Case, id: string, facts: object): Complaint[] {
  return rules
    .filter((rule) => rule.broken(it))
    .map(({ what }) => ({ what: `${what} ${inJson(facts)}`, id }));
}

const inJson = (facts: object): string =>
  JSON.stringify(facts, (_, value) => (typeof value === "bigint" ? String(value) : value));

/** What a reported usage costs. */
export const costOf = ({ input, output }: { input: number; output: number }): Ngonka =>
  priceOf(PRICE, BigInt(input), BigInt(output));

/** The customer pays what was reported, at most what was held. */
function dueOf(row: Row, usage: Served["usage"] | undefined): Ngonka | undefined {
  if (!usage) return undefined;
  const cost = costOf(usage);
  if (cost > row.amount) return row.amount;
  return cost;
}

/** All holds on record, open and ended. */
export async function readHolds(sql: Sql): Promise<Row[]> {
  return await sql<Row[]>`
    select id, (array_agg(child_key_id order by part))[1] as child,
           (array_agg(fingerprint order by part))[1] as fingerprint,
           sum(amount)::bigint as amount, (array_agg(outcome order by part))[1] as outcome,
           count(usage_seq)::int as records, max(request_cost) as cost,
           bool_or(estimated) as estimated, max(ended_at) as "endedAt"
      from (select id, part, child_key_id, fingerprint, amount, null as outcome,
                   null::bigint as usage_seq, null::bigint as request_cost,
                   null::boolean as estimated, null::timestamptz as ended_at
              from open_hold
            union all
            select id, part, child_key_id, fingerprint, amount, outcome::text, usage_seq,
                   request_cost, estimated, ended_at
              from ended_hold) h
     group by id`;
}
