import { SECOND } from "../../src/base/time.js";
import type { Complaint, Outcome } from "./books.js";
import type { Result } from "./run.js";

/** What a run comes to. */
export interface Summary {
  seed: number;
  seconds: number;
  settledSeconds: number;
  kills: number;
  faults: Record<string, number>;
  requests: Record<Outcome, number>;
  holds: Record<Outcome, number>;
  payments: { acknowledged: number; unknown: number };
  refusals: Record<string, number>;
  unknowns: Record<string, number>;
  unknown_paid: number;
  house_carried: number;
  house_carried_ngonka: string;
  captured_ngonka: string;
  recoveries: Record<string, { count: number; p50_ms: number; max_ms: number }>;
  skipped: string[];
  violations: string[];
  losses: Complaint[];
  ok: boolean;
}

export function summarize(result: Result): Summary {
  const { client, audit, findings } = result;
  const violations = findings.flatMap((it) => it.violations.map((text) => `${it.no}: ${text}`));
  const known = client.toppedUp.filter((it) => it.acknowledged).length;
  const unknowns = client.asked.filter((it) => it.outcome === "unknown");
  const refused = client.asked.filter((it) => it.outcome === "refused");
  return {
    seed: result.seed,
    seconds: seconds(result.struckMs),
    settledSeconds: seconds(result.settledMs),
    kills: result.kills,
    faults: result.faults,
    requests: countOf(client.asked.map((it) => it.outcome)),
    holds: countOf(client.kept.map((it) => it.end?.outcome ?? it.authorized)),
    payments: { acknowledged: known, unknown: client.toppedUp.length - known },
    refusals: tally(refused.map((it) => it.why)),
    unknowns: tally(unknowns.map((it) => it.why)),
    unknown_paid: audit.unknownPaid,
    house_carried: audit.houseCarried,
    house_carried_ngonka: String(audit.houseCarriedNgonka),
    captured_ngonka: String(audit.captured),
    recoveries: Object.fromEntries(
      Object.entries(result.recoveries).map(([name, times]) => [name, spread(times)]),
    ),
    skipped: result.skipped,
    violations,
    losses: audit.losses,
    ok: violations.length === 0 && audit.losses.length === 0,
  };
}

/** The summary as lines for a person. */
export function inLines(summary: Summary): string[] {
  const { requests, holds, payments } = summary;
  const rows = Object.entries(summary.faults).sort(([a], [b]) => a.localeCompare(b));
  return [
    `chaos: seed ${summary.seed}, ${summary.kills} kills in ${summary.seconds} s, at rest after ${summary.settledSeconds} s more`,
    ...rows.map(([name, count]) => `  ${String(count).padStart(4)}  ${name}`),
    `requests   ${outcomes(requests)}`,
    `holds      ${outcomes(holds)}, of backends over gRPC`,
    `payments   ${payments.acknowledged} acknowledged, ${payments.unknown} unknown`,
    `refused    ${inWords(summary.refusals)}`,
    `unknown    ${inWords(summary.unknowns)}; ${summary.unknown_paid} of them were paid`,
    `house      carried ${summary.house_carried} answers that nobody paid for (${summary.house_carried_ngonka} ngonka)`,
    `captured   ${summary.captured_ngonka} ngonka`,
    ...Object.entries(summary.recoveries).map(
      ([name, it]) => `recovery   ${name}: ${it.count}, p50 ${it.p50_ms} ms, max ${it.max_ms} ms`,
    ),
    `expected   1,000 kills at this pace: ${Math.round(minutesOf(summary))} min`,
    ...summary.skipped.map((what) => `SKIPPED    ${what}`),
    ...summary.violations.map((text) => `VIOLATED   invariant ${text}`),
    ...summary.losses.map(({ what, id }) => `LOST       ${id}: ${what}`),
    summary.ok
      ? "0 lost, 0 doubled, 0 overspent: the books of the client, the upstream and the database agree"
      : `${summary.violations.length + summary.losses.length} things are wrong; --seed ${summary.seed} runs them again`,
  ];
}

const minutesOf = ({ seconds: struck, kills, settledSeconds }: Summary): number =>
  ((struck * 1_000) / Math.max(kills, 1) + settledSeconds) / 60;

const seconds = (ms: number): number => Math.round(ms / SECOND);

function tally(words: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}

const countOf = (all: readonly Outcome[]): Record<Outcome, number> => ({
  ...{ acknowledged: 0, refused: 0, unknown: 0 },
  ...tally(all),
});

function spread(times: readonly number[]) {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (index: number) => Math.round(sorted[index] ?? 0);
  return {
    count: sorted.length,
    p50_ms: at(Math.floor(sorted.length / 2)),
    max_ms: at(sorted.length - 1),
  };
}

const outcomes = (counts: Record<Outcome, number>): string =>
  `${counts.acknowledged} acknowledged, ${counts.refused} refused, ${counts.unknown} unknown`;

const inWords = (counts: Record<string, number>): string =>
  Object.entries(counts)
    .map(([word, count]) => `${count} ${word}`)
    .join(", ") || "none";
