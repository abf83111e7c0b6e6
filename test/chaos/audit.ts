import type { Ngonka } from "../../src/base/money.js";
import type { Sql } from "../../src/db/sql.js";
import type { ClientBook, Complaint, UpstreamBook } from "./books.js";
import { costOf, judgeAsked, judgeKept, type Row, readHolds } from "./verdicts.js";

export interface Audit {
  /** What the books do not agree on. Empty when nothing was lost, doubled or overspent. */
  losses: Complaint[];
  /** Requests whose caller does not know what became of them, and that were paid for. */
  unknownPaid: number;
  /** Requests that an upstream served in full and nobody paid for. */
  houseCarried: number;
  houseCarriedNgonka: Ngonka;
  /** All that customers have paid. */
  captured: Ngonka;
}

/** Compares the client's book and the upstream's with the database, row by row. */
export async function audit(sql: Sql, client: ClientBook, upstream: UpstreamBook): Promise<Audit> {
  const rows = await readHolds(sql);
  const backends = new Set(client.kept.map((it) => it.id));
  const own = rows.filter((row) => !backends.has(row.id));
  const requests = matchRequests(own, client, upstream);
  const carried = requests.cases.filter((it) => it.served?.whole && it.row?.outcome !== "captured");
  return {
    losses: [
      ...client.complaints,
      ...judgeBackends(rows, client),
      ...requests.strangers,
      ...requests.cases.flatMap(judgeAsked),
      ...(await judgePayments(sql, client)),
    ],
    unknownPaid: requests.cases.filter(
      ({ asked, row }) => asked.outcome === "unknown" && row?.outcome === "captured",
    ).length,
    houseCarried: carried.length,
    houseCarriedNgonka: sum(
      carried.map(({ served }) => (served?.usage ? costOf(served.usage) : 0n)),
    ),
    captured: sum(rows.map((row) => row.cost ?? 0n)),
  };
}

function judgeBackends(rows: readonly Row[], client: ClientBook): Complaint[] {
  const byId = new Map(rows.map((row) => [row.id, row]));
  return client.kept.flatMap((kept) => {
    const row = byId.get(kept.id);
    if (row) return judgeKept({ kept, row });
    return kept.authorized === "acknowledged"
      ? [{ what: "an acknowledged hold is gone", id: kept.id }]
      : [];
  });
}

/** Finds the hold of each request by the fingerprint of its body. */
function matchRequests(own: readonly Row[], client: ClientBook, upstream: UpstreamBook) {
  const rows = new Map(own.map((row) => [row.fingerprint, row]));
  const cases = client.asked.map((asked) => ({
    asked,
    row: rows.get(asked.fingerprint),
    served: upstream.get(asked.no),
  }));
  const known = new Set(cases.flatMap(({ row }) => row?.id ?? []));
  const strangers = own
    .filter((row) => !known.has(row.id))
    .map(({ id }) => ({ what: "a second hold of a request, or one that nobody asked for", id }));
  return { cases, strangers };
}

async function judgePayments(sql: Sql, { toppedUp }: ClientBook): Promise<Complaint[]> {
  const rows = await sql<{ account: string; reference: string; amount: Ngonka }[]>`
    select credit_account as account, reference, amount from transfer where kind = 'credit'`;
  const posted = new Map(rows.map((row) => [row.reference, row]));
  const wrong = toppedUp.flatMap(({ account, reference, amount, acknowledged }) => {
    const row = posted.get(reference);
    if (row && (row.amount !== amount || row.account !== account)) {
      return [{ what: `paid in ${amount}, credited ${row.amount}`, id: reference }];
    }
    if (row || !acknowledged) return [];
    return [{ what: "an acknowledged payment is gone", id: reference }];
  });
  const known = new Set(toppedUp.map((it) => it.reference));
  const strange = rows.filter((row) => !known.has(row.reference));
  return [
    ...wrong,
    ...strange.map(({ reference }) => ({ what: "a payment nobody made", id: reference })),
  ];
}

const sum = (amounts: readonly Ngonka[]): Ngonka =>
  amounts.reduce((total, amount) => total + amount, 0n);
