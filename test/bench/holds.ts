import { newId } from "../../src/base/ids.js";
import { elapsed, pause } from "../../src/base/time.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { HoldRequest } from "../../src/holds/holds.js";

export interface Figures {
  perSecond: number;
  p50: number;
  p99: number;
}

const CHILDREN = 1_000;
const WARM_UP_MS = 1_000;
const BASELINE_CONNECTIONS = 32;
const AMOUNT = 1_000n;

interface Books {
  account: string;
  children: string[];
}

/** One hot account with 1,000 limited child keys and nothing else: as empty as a first day. */
export async function openBooks(sql: Sql): Promise<Books> {
  const account = newId();
  const manager = newId();
  const children = Array.from({ length: CHILDREN }, newId);
  await sql`insert into account (id, posted) values (${account}, ${10n ** 18n})`;
  await sql`
    insert into management_key (id, account_id, name, hint, created_at, updated_at)
    values (${manager}, ${account}, 'bench', 'gm-', now(), now())`;
  await sql`
    insert into child_key (id, account_id, management_key_id, name, hint, day, month, limit_daily,
      limit_monthly,
                           created_at, updated_at)
    select id, ${account}, ${manager}, 'bench', 'gc-', current_date, date_trunc('month',
      now())::date,
           ${10n ** 15n}, ${10n ** 16n}, now(), now()
      from unnest(${children}::uuid[]) id`;
  return { account, children };
}

/** Calls `work` from `concurrency` loops for `seconds`, after a warm-up, and measures each call. */
export async function measure(
  work: () => Promise<unknown>,
  { seconds, concurrency }: { seconds: number; concurrency: number },
): Promise<Figures> {
  let measuring = false;
  let over = false;
  const times: number[] = [];
  const loops = Array.from({ length: concurrency }, async () => {
    while (!over) {
      const start = elapsed();
      await work();
      if (measuring) times.push(elapsed() - start);
    }
  });
  const failed = Promise.all(loops);
  await Promise.race([pause(WARM_UP_MS), failed]);
  measuring = true;
  const start = elapsed();
  await Promise.race([pause(seconds * 1_000), failed]);
  measuring = false;
  const took = elapsed() - start;
  over = true;
  await failed;
  times.sort((a, b) => a - b);
  const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))];
  return {
    perSecond: Math.round((times.length * 1_000) / took),
    p50: Number((at(0.5) ?? 0).toFixed(2)),
    p99: Number((at(0.99) ?? 0).toFixed(2)),
  };
}

export function aHold({ account, children }: Books): HoldRequest {
  return {
    account,
    child: children[Math.floor(Math.random() * children.length)] ?? account,
    id: newId(),
    part: 0,
    amount: AMOUNT,
    floor: 0n,
    secretVersion: 1,
    seconds: 300,
    fingerprint: 1n,
    own: false,
    model: "bench",
    priceVersion: 1,
  };
}

const usage = {
  inputTokens: 10n,
  outputTokens: 20n,
  estimated: false,
  fingerprint: 2n,
  own: false,
};

/** Holds, or holds with their captures, through the engine. */
export async function engineFigures(
  url: string,
  what: "holds" | "cycles",
  load: { seconds: number; concurrency: number },
): Promise<Figures> {
  const sql = connect(url, { name: "bench engine", max: 6 });
  const books = await openBooks(sql);
  const holds = createHolds(sql, { gateway: null });
  try {
    return await measure(async () => {
      const hold = aHold(books);
      await holds.authorize(hold);
      if (what === "cycles") {
        await holds.capture({ account: hold.account, id: hold.id, cost: 600n, ...usage });
      }
    }, load);
  } finally {
    await holds.close();
    await sql.end();
  }
}

/** The same, the way it is usually done: a transaction for each request, with row locks. */
export async function baselineFigures(
  url: string,
  what: "holds" | "cycles",
  load: { seconds: number; concurrency: number },
): Promise<Figures> {
  const sql = connect(url, {
    name: "bench baseline",
    max: Math.min(load.concurrency, BASELINE_CONNECTIONS),
  });
  const books = await openBooks(sql);
  try {
    return await measure(async () => {
      const hold = aHold(books);
      await authorizeAlone(sql, hold);
      if (what === "cycles") await captureAlone(sql, hold, 600n);
    }, load);
  } finally {
    await sql.end();
  }
}

async function authorizeAlone(
  sql: Sql,
  { account, child, id, amount }: HoldRequest,
): Promise<void> {
  await sql.begin(async (tx) => {
    const [a] =
      await tx`select posted, held, accrued from account where id = ${account} for update`;
    const [c] = await tx`
      select limit_daily, limit_monthly, status, expires_at,
             case when day >= current_date then used_daily else 0 end as used_daily,
             case when month >= date_trunc('month',
               now())::date then used_monthly else 0 end as used_monthly
        from child_key where id = ${child} for update`;
    if (a?.posted - a?.accrued - a?.held < amount) throw new Error("balance");
    if (c?.used_daily + amount > c?.limit_daily || c?.used_monthly + amount > c?.limit_monthly) {
      throw new Error("limit");
    }
    await tx`update account set held = held + ${amount} where id = ${account}`;
    await tx`
      update child_key set day = current_date, used_daily = ${c?.used_daily + amount},
             month = date_trunc('month', now())::date, used_monthly = ${c?.used_monthly + amount},
             used_total = used_total + ${amount}, held = held + ${amount}
       where id = ${child}`;
    await tx`
      insert into open_hold values (${account}, ${id}, 0, ${child}, ${amount}, current_date,
        date_trunc('month', now())::date, now(), now() + interval '5 minutes', 1)`;
  });
}

async function captureAlone(sql: Sql, { account, id }: HoldRequest, cost: bigint): Promise<void> {
  await sql.begin(async (tx) => {
    const [a] = await tx`select usage_seq from account where id = ${account} for update`;
    const [h] =
      await tx`delete from open_hold where account_id = ${account} and id = ${id} returning *`;
    const back = h?.amount - cost;
    await tx`
      update account set held = held - ${h?.amount}, accrued = accrued + ${cost},
        usage_seq = usage_seq + 1
       where id = ${account}`;
    await tx`
      update child_key set used_daily = used_daily - ${back}, used_monthly = used_monthly - ${back},
             used_total = used_total - ${back}, held = held - ${h?.amount},
               requests_total = requests_total + 1
       where id = ${h?.child_key_id}`;
    await tx`
      insert into ended_hold values (${account}, ${id}, 0, ${h?.child_key_id}, ${h?.amount},
        ${cost}, 'captured',
        ${h?.day}, ${h?.month}, ${h?.authorized_at}, now(), 1, 2, 'bench', 1, ${a?.usage_seq + 1n},
          ${cost},
        10, 20, false)`;
  });
}
