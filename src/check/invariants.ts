import type { Tx } from "../db/sql.js";

/** One invariant, recomputed. `violations` name the rows by id; an empty list means that it holds. */
export interface Finding {
  no: number;
  name: string;
  /** What was looked at, in words: `1,204 transfers`. */
  counted: string;
  violations: string[];
}

interface Invariant {
  no: number;
  name: string;
  /** Answers one row with counts; the column's name is what was counted. */
  count: (tx: Tx) => Promise<readonly Record<string, unknown>[]>;
  /** Answers a row with `problem` for each violation. */
  find: (tx: Tx) => Promise<readonly { problem: string }[]>;
}

/** Most violations that are named per invariant. */
const NAMED = 20;

type Problems = { problem: string }[];

/** All holds, open and ended, as one relation. */
const ALL_HOLDS = `
  (select account_id, id, part, child_key_id, amount, null::bigint as cost, day, month, authorized_at, null::timestamptz as ended_at
     from open_hold
   union all
   select account_id, id, part, child_key_id, amount, cost, day, month, authorized_at, ended_at from ended_hold)`;

/**
 * Authorizations that left more used than the limit then in force: the sum of what was held and not given back at
 * that instant, against the newest child_limit row up to it. An account's instants never repeat, so their order is total.
 *
 * @param period column that tells the period (day, month), or a constant for the total
 */
const overruns = (period: string, limit: string): string => `
  select format('child key %s, %s: %s used of %s after hold %s', child_key_id, period, used, cap, id) as problem
    from (select s.*, (select l.${limit} from child_limit l
                        where l.child_key_id = s.child_key_id and l.since <= s.at order by l.since desc limit 1) as cap
            from (select child_key_id, period, at, id, opens,
                         sum(delta) over (partition by child_key_id, period order by at range unbounded preceding) as used
                    from (select child_key_id, ${period}::text as period, authorized_at as at, id, true as opens, amount as delta
                            from ${ALL_HOLDS} h
                          union all
                          select child_key_id, ${period}::text, ended_at, id, false, cost - amount from ended_hold) e) s
           where s.opens and exists (select 1 from child_limit l where l.child_key_id = s.child_key_id and l.${limit} is not null)) c
   where used > cap limit ${NAMED}`;

export const INVARIANTS: Invariant[] = [
  {
    no: 1,
    name: "every transfer has two sides and a positive amount, and all balances sum to 0",
    count: (tx) => tx`select count(*) as transfers from transfer`,
    find: (tx) => tx<Problems>`
      select format('transfer %s: amount %s from %s to %s', t.id, amount, debit_account, credit_account) as problem
        from transfer t
       where amount <= 0 or debit_account = credit_account
          or not exists (select 1 from account where id = debit_account union all select 1 from house_account where id = debit_account)
          or not exists (select 1 from account where id = credit_account union all select 1 from house_account where id = credit_account)
       limit ${NAMED}`,
  },
  {
    no: 2,
    name: "posted, held and accrued are what journal, open holds and unsettled usage say; available is never negative",
    count: (tx) => tx`select count(*) as accounts from account`,
    find: (tx) => tx<Problems>`
      select format('account %s: posted %s (journal %s), held %s (open holds %s), accrued %s (unsettled usage %s)',
                    id, posted, journal, held, open, accrued, unsettled) as problem
        from (select a.*,
                     coalesce((select sum(amount) from transfer where credit_account = a.id), 0)
                       - coalesce((select sum(amount) from transfer where debit_account = a.id), 0) as journal,
                     coalesce((select sum(amount) from open_hold where account_id = a.id), 0) as open,
                     coalesce((select sum(request_cost) from ended_hold
                                where account_id = a.id and usage_seq > a.settled_seq), 0) as unsettled
                from account a) b
       where posted <> journal or held <> open or accrued <> unsettled or posted - accrued - held < 0
       limit ${NAMED}`,
  },
  {
    no: 3,
    name: "used is captured plus open in each period, and every authorization fitted the limit then in force",
    count: (tx) => tx`
      select (select count(*) from child_key) as "child keys", (select count(*) from child_limit) as limits,
             (select count(*) from open_hold) + (select count(*) from ended_hold) as holds`,
    find: async (tx) => [
      ...(await tx<Problems>`
        select format('child key %s: daily %s (holds %s), monthly %s (holds %s), total %s (holds %s), held %s (open %s)',
                      c.id, c.used_daily, h.daily, c.used_monthly, h.monthly, c.used_total, h.total, c.held, h.open) as problem
          from child_key c, lateral (
                 select coalesce(sum(coalesce(cost, amount)) filter (where h.day = c.day), 0) as daily,
                        coalesce(sum(coalesce(cost, amount)) filter (where h.month = c.month), 0) as monthly,
                        coalesce(sum(coalesce(cost, amount)), 0) as total,
                        coalesce(sum(amount) filter (where cost is null), 0) as open
                   from ${tx.unsafe(ALL_HOLDS)} h where h.account_id = c.account_id and h.child_key_id = c.id) h
         where c.used_daily <> h.daily or c.used_monthly <> h.monthly or c.used_total <> h.total or c.held <> h.open
         limit ${NAMED}`),
      ...(await tx.unsafe<Problems>(overruns("day", "limit_daily"))),
      ...(await tx.unsafe<Problems>(overruns("month", "limit_monthly"))),
      ...(await tx.unsafe<Problems>(overruns("'total'", "limit_total"))),
    ],
  },
  {
    no: 4,
    name: "each hold ends exactly once and is captured at most at what it held; excess cost is the house's",
    count: (tx) => tx`
      select (select count(*) from ended_hold) as "ended holds", (select count(*) from open_hold) as "open holds",
             (select count(*) from transfer where kind = 'loss') as "house losses"`,
    find: (tx) => tx<Problems>`
      (select format('hold %s/%s is both open and ended', o.id, o.part) as problem
         from open_hold o join ended_hold e using (account_id, id, part) limit ${NAMED})
      union all
      (select format('hold %s: parts of a request ended apart', o.id)
         from open_hold o join ended_hold e using (account_id, id) limit ${NAMED})
      union all
      (select format('hold %s: cost %s of %s held, request cost %s', id, sum(cost), sum(amount), max(request_cost))
         from ended_hold group by account_id, id
        having sum(cost) > sum(amount) or (max(request_cost) is not null and max(request_cost) <> sum(cost))
        limit ${NAMED})
      union all
      (select format('loss %s is not the house''s', id) from transfer
        where kind = 'loss' and (debit_account <> '00000000-0000-0000-0000-000000000003'
                              or credit_account <> '00000000-0000-0000-0000-000000000004') limit ${NAMED})`,
  },
  {
    no: 5,
    name: "the same id or reference had at most one effect",
    count: (tx) => tx`
      select count(distinct (account_id, id)) as requests from ended_hold where usage_seq is not null`,
    find: (tx) => tx<Problems>`
      (select format('hold %s has %s usage records', id, count(*)) as problem
         from ended_hold where usage_seq is not null group by account_id, id having count(*) > 1 limit ${NAMED})
      union all
      (select format('%s %s was posted %s times', kind, reference, count(*))
         from transfer group by kind, reference having count(*) > 1 limit ${NAMED})`,
  },
  {
    no: 6,
    name: "what is acknowledged is durable: Postgres flushes each commit",
    count: (tx) => tx`select count(*) as settings from pg_settings
                       where name in ('fsync', 'full_page_writes', 'synchronous_commit')`,
    find: (tx) => tx<Problems>`
      select format('%s is %s', name, setting) as problem from pg_settings
       where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off'`,
  },
  {
    no: 7,
    name: "no hold is open longer than its deadline and a minute",
    count: (tx) => tx`select count(*) as "open holds" from open_hold`,
    find: (tx) => tx<Problems>`
      select format('hold %s is open, its deadline was %s', id, deadline) as problem from open_hold
       where part = 0 and greatest(deadline, pg_postmaster_start_time()) < clock_timestamp() - interval '60 seconds'
       limit ${NAMED}`,
  },
  {
    no: 8,
    name: "journal and usage are append-only; each account's settled batches form one hash chain, which recomputes",
    count: (tx) => tx`
      select (select count(*) from settlement_post) as posts,
             (select count(*) from ended_hold where usage_seq is not null) as "usage records"`,
    find: (tx) => tx<Problems>`
      (select format('account %s, post %s: records %s to %s do not recompute', account_id, no, from_seq, to_seq) as problem
         from (select p.*, d.records, d.amount as summed, d.digest,
                      coalesce(lag(hash) over chain, decode(repeat('00', 32), 'hex')) as before,
                      coalesce(lag(to_seq) over chain, 0) as last_seq
                 from settlement_post p, lateral usage_digest(p.account_id, p.from_seq, p.to_seq) d
               window chain as (partition by account_id order by no)) c
        where previous_hash <> before or from_seq <> last_seq + 1 or records <> to_seq - from_seq + 1 or amount <> summed
           or hash <> post_hash(previous_hash, account_id, no, from_seq, to_seq, amount, digest)
        limit ${NAMED})
      union all
      (select format('account %s: chain or watermark differ from its newest post', a.id)
         from account a left join lateral (select * from settlement_post p where p.account_id = a.id order by no desc limit 1) p on true
        where a.settled_seq <> coalesce(p.to_seq, 0) or a.post_no <> coalesce(p.no, 0)
           or a.chain <> coalesce(p.hash, decode(repeat('00', 32), 'hex')) limit ${NAMED})
      union all
      (select format('account %s: %s usage records, numbered up to %s', a.id, u.records, a.usage_seq)
         from account a, lateral (select count(*) as records, coalesce(max(usage_seq), 0) as newest, count(distinct usage_seq) as numbers
                                    from ended_hold e where e.account_id = a.id and e.usage_seq is not null) u
        where u.records <> a.usage_seq or u.newest <> a.usage_seq or u.numbers <> a.usage_seq limit ${NAMED})
      union all
      (select format('%s has lost its append-only trigger', t.name)
         from unnest(array['transfer', 'ended_hold', 'settlement_post', 'child_limit', 'model_price', 'audit_event']) t(name)
        where not exists (select 1 from pg_trigger g where g.tgrelid = t.name::regclass and g.tgname = 'append_only' and g.tgenabled <> 'D'))`,
  },
  {
    no: 9,
    name: "an account's time and period keys never go backwards",
    count: (tx) =>
      tx`select count(*) as "usage records" from ended_hold where usage_seq is not null`,
    find: (tx) => tx<Problems>`
      (select format('account %s: usage record %s is older than the one before', account_id, usage_seq) as problem
         from (select account_id, usage_seq, ended_at, lag(ended_at) over (partition by account_id order by usage_seq) as before
                 from ended_hold where usage_seq is not null) s
        where ended_at < before limit ${NAMED})
      union all
      (select format('hold %s counts in %s and %s, authorized at %s', h.id, h.day, h.month, h.authorized_at)
         from ${tx.unsafe(ALL_HOLDS)} h
        where h.day <> (h.authorized_at at time zone 'UTC')::date
           or h.month <> date_trunc('month', h.authorized_at at time zone 'UTC')::date limit ${NAMED})
      union all
      (select format('hold %s is of %s, its account only of %s', h.id, h.authorized_at, a.last_at)
         from ${tx.unsafe(ALL_HOLDS)} h join account a on a.id = h.account_id
        where greatest(h.authorized_at, h.ended_at) > a.last_at limit ${NAMED})`,
  },
  {
    no: 10,
    name: "a refusal changes nothing: no counter moved without a hold behind it",
    count: (tx) => tx`select coalesce(sum(requests_total), 0)::bigint as requests from child_key`,
    find: (tx) => tx<Problems>`
      select format('child key %s counts %s requests, %s were captured', c.id, c.requests_total, u.captured) as problem
        from child_key c, lateral (select count(*) as captured from ended_hold e
                                    where e.account_id = c.account_id and e.child_key_id = c.id and e.usage_seq is not null) u
       where c.requests_total <> u.captured limit ${NAMED}`,
  },
  {
    no: 11,
    name: "settlement posts equal their transfers, and roll-ups equal the usage behind them",
    count: (tx) => tx`
      select (select count(*) from transfer where kind = 'settlement') as settlements,
             (select count(*) from usage_rollup) as "roll-ups"`,
    find: (tx) => tx<Problems>`
      (select format('account %s, post %s of %s: transfer %s', p.account_id, p.no, p.amount, coalesce(t.amount::text, 'is missing')) as problem
         from settlement_post p left join transfer t on t.id = p.transfer_id and t.kind = 'settlement' and t.debit_account = p.account_id
        where p.amount <> coalesce(t.amount, 0) limit ${NAMED})
      union all
      (select format('settlement transfer %s has no post', t.id)
         from transfer t where t.kind = 'settlement' and not exists (select 1 from settlement_post p where p.transfer_id = t.id) limit ${NAMED})
      union all
      (select format('roll-up of child key %s on %s (%s): %s requests of %s, usage says %s of %s',
                     r.child_key_id, r.day, r.model, r.requests, r.cost, u.requests, u.cost)
         from usage_rollup r, lateral (
                select count(*) as requests, coalesce(sum(e.request_cost), 0) as cost from ended_hold e
                 where e.account_id = r.account_id and e.child_key_id = r.child_key_id and e.usage_seq is not null
                   and coalesce(e.model, '') = r.model and (e.ended_at at time zone 'UTC')::date = r.day) u
        where r.requests <> u.requests or r.cost <> u.cost limit ${NAMED})`,
  },
  {
    no: 12,
    name: "no key spent after it was disabled, deleted or expired",
    count: (tx) => tx`
      select (select count(*) from child_key where status <> 'active' or expires_at <= clock_timestamp()) as "inactive child keys",
             (select count(*) from management_key where status <> 'active' or expires_at <= clock_timestamp()) as "inactive management keys"`,
    find: (tx) => tx<Problems>`
      select format('hold %s was authorized at %s by child key %s, which could not spend', h.id, h.authorized_at, c.id) as problem
        from ${tx.unsafe(ALL_HOLDS)} h
        join child_key c on c.id = h.child_key_id and c.account_id = h.account_id
        join management_key m on m.id = c.management_key_id
       where (h.authorized_at > c.updated_at and (c.status <> 'active' or h.authorized_at >= c.expires_at))
          or (h.authorized_at > m.updated_at and (m.status <> 'active' or h.authorized_at >= m.expires_at))
       limit ${NAMED}`,
  },
];

/** Recomputes one invariant inside a snapshot. */
export async function examine(tx: Tx, { no, name, count, find }: Invariant): Promise<Finding> {
  const [counts] = await count(tx);
  const found = await find(tx);
  const counted = Object.entries(counts ?? {})
    .map(([what, number]) => `${Number(number).toLocaleString("en-US")} ${what}`)
    .join(", ");
  return { no, name, counted, violations: found.map((row) => row.problem) };
}
