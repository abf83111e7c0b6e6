import type { Sql } from "../../src/db/sql.js";
import { rolledUp } from "./account-rules.js";
import {
  accountOf,
  accruedOf,
  at,
  dayOf,
  type Hold,
  heldByChild,
  heldOf,
  holdsOf,
  type Micros,
  monthOf,
  postedOf,
  usedOf,
  type World,
} from "./model.js";

/** All that can be seen of the accounts, a line for each row: as it stands, and as it must. */

type Field = string | number | bigint | boolean | null;
const line = (...fields: Field[]): string => fields.map((it) => it ?? "-").join(" ");

/** Times as microseconds since 1970. */
export const MICROS = `
  create function us(at timestamptz) returns bigint language sql immutable
    as $$ select (extract(epoch from at) * 1000000)::bigint $$`;

const row = (...columns: string[]): string =>
  `array_to_string(array[${columns.map((it) => `(${it})::text`).join(", ")}], ' ', '-')`;

const ROWS = [
  `select ${row("'account'", "id", "status = 'suspended'", "posted", "held", "accrued", "usage_seq", "settled_seq", "post_no", "us(last_at)")}
     from account where id = any ($1::uuid[])`,
  `select ${row("'manager'", "id", "status", "us(expires_at)", "us(expiry_recorded)")}
     from management_key where account_id = any ($1::uuid[])`,
  `select ${row("'child'", "id", "status", "us(expires_at)", "us(expiry_recorded)", "secret_version", "us(previous_secret_until)", "limit_daily", "limit_monthly", "limit_total")}
     from child_key where account_id = any ($1::uuid[])`,
  `select ${row("'used'", "id", "day", "used_daily", "month", "used_monthly", "used_total", "held", "requests_total", "us(last_used_at)")}
     from child_key where account_id = any ($1::uuid[])`,
  `select ${row("'open'", "account_id", "id", "part", "child_key_id", "amount", "day", "month", "us(authorized_at)", "us(deadline)", "fingerprint", "gateway_id is not null", "case when part = 0 then checkpoint_cost end")}
     from open_hold where account_id = any ($1::uuid[])`,
  `select ${row("'ended'", "account_id", "id", "part", "child_key_id", "amount", "cost", "outcome", "day", "month", "us(authorized_at)", "us(ended_at)", "fingerprint", "end_fingerprint", "usage_seq", "request_cost", "estimated")}
     from ended_hold where account_id = any ($1::uuid[])`,
  `select ${row("'transfer'", "kind", "debit_account", "credit_account", "amount", "reference", "us(posted_at)")}
     from transfer where debit_account = any ($1::uuid[]) or credit_account = any ($1::uuid[])
        or kind = 'loss' and substr(reference, 1, 36)::uuid = any ($1::uuid[])`,
  `select ${row("'post'", "account_id", "no", "amount")} from settlement_post where account_id = any ($1::uuid[])`,
  `select ${row("'usage'", "day", "child_key_id", "requests", "cost")}
     from usage_rollup where account_id = any ($1::uuid[])`,
];
const READ = `select string_agg(l, E'\n') as lines from (${ROWS.join(" union all ")}) s(l)`;

/** @param nameOf the model's name of an id */
export async function readLines(
  sql: Sql,
  accounts: readonly string[],
  nameOf: (id: string) => string,
): Promise<string[]> {
  const [found] = await sql.unsafe(READ, [`{${accounts.join(",")}}`], { prepare: true });
  const lines: string = found?.lines ?? "";
  return lines
    .replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, nameOf)
    .split("\n")
    .sort();
}

/** The same lines as the model has them. */
export function linesOf(world: World): string[] {
  const accounts = world.accounts.flatMap((it, i) => [
    line(
      "account",
      `a${i}`,
      it.suspended,
      postedOf(world, i),
      heldOf(it),
      accruedOf(it),
      it.seq,
      it.settled,
      it.posts.length,
      it.last,
    ),
    ...[...it.holds].flatMap(([id, hold]) => holdLines(i, id, hold)),
    ...it.posts.map((amount, no) => line("post", `a${i}`, no + 1, amount)),
  ]);
  const managers = world.managers.map((it, i) =>
    line("manager", `m${i}`, it.status, it.expires, it.recorded),
  );
  const transfers = world.journal.map((it) =>
    line("transfer", it.kind, it.from, it.to, it.amount, it.reference, it.at),
  );
  const children = world.children.flatMap((_, i) => childLines(world, i));
  return [...accounts, ...managers, ...children, ...transfers].sort();
}

function childLines(world: World, i: number): string[] {
  const child = at(world.children, i);
  const { status, expires, recorded, version, grace, daily, monthly, total, day, month } = child;
  const captured = holdsOf(world, i).filter((hold) => hold.seq > 0n);
  const used = [
    usedOf(world, i, (part) => dayOf(part.at) === day),
    usedOf(world, i, (part) => monthOf(part.at) === month),
    usedOf(world, i, () => true),
  ] as const;
  const newest = Math.max(...captured.map((hold) => hold.endedAt));
  const lastUsed: Micros | null = captured.length > 0 ? newest : null;
  const rollups = rolledUp(world, i).map(({ day: of, requests, cost }) =>
    line("usage", of, `c${i}`, requests, cost),
  );
  return [
    line("child", `c${i}`, status, expires, recorded, version, grace, daily, monthly, total),
    line(
      "used",
      `c${i}`,
      day,
      used[0],
      month,
      used[1],
      used[2],
      heldByChild(world, i),
      captured.length,
      lastUsed,
    ),
    ...rollups,
  ];
}

function holdLines(account: number, id: number, hold: Hold): string[] {
  const captured = hold.seq > 0n;
  return [...hold.parts].map(([no, part]) => {
    const days = [dayOf(part.at), monthOf(part.at), part.at] as const;
    const named = [`a${account}`, `h${id}`, no, `c${hold.child}`, part.amount] as const;
    if (hold.state === "open") {
      const checkpoint = no === 0 ? hold.checkpoint : null;
      return line("open", ...named, ...days, part.deadline, part.print, part.own, checkpoint);
    }
    const usage = captured && no === 0 ? [hold.seq, hold.cost, hold.estimated] : [null, null, null];
    const outcome = hold.state;
    return line(
      "ended",
      ...named,
      part.cost,
      outcome,
      ...days,
      hold.endedAt,
      part.print,
      hold.endPrint,
      ...usage,
    );
  });
}

/** What a world must be like whatever happened in it. */
export function brokenIn(world: World): string[] {
  return world.accounts.flatMap((_, i) => {
    const { last } = accountOf(world, i);
    const spendable =
      postedOf(world, i) - accruedOf(accountOf(world, i)) - heldOf(accountOf(world, i));
    return [
      ...(spendable < 0n ? [`a${i} is overdrawn: ${spendable}`] : []),
      ...(Number.isSafeInteger(last) ? [] : [`a${i} has no time`]),
    ];
  });
}
