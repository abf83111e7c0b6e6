import { ALL_HOLDS, type Invariant, NAMED, type Problems } from "./invariant.js";

/**
 * Authorizations that left more used than the limit then in force: the sum of what was held and not
 * given back at that instant, against the newest child_limit row up to it. An account's instants
 * never repeat, so their order is total.
 *
 * @param period column that tells the period (day, month), or a constant for the total
 */
const overruns = (period: string, limit: string): string => `
  select format('child key %s, %s: %s used of %s after hold %s', child_key_id, period, used, cap,
    id) as problem
    from (select s.*, (select l.${limit} from child_limit l
                        where l.child_key_id = s.child_key_id and l.since <= s.at
                          order by l.since desc limit 1) as cap
            from (select child_key_id, period, at, id, opens,
                         sum(delta) over (partition by child_key_id, period
                           order by at range unbounded preceding) as used
                    from (select child_key_id, ${period}::text as period, authorized_at as at, id,
                      true as opens, amount as delta
                            from ${ALL_HOLDS} h
                          union all
                          select child_key_id, ${period}::text, ended_at, id, false, cost - amount
                            from ended_hold) e) s
           where s.opens and exists (select 1 from child_limit l
             where l.child_key_id = s.child_key_id and l.${limit} is not null)) c
   where used > cap limit ${NAMED}`;

/** What every amount must add up to: invariants 1 to 6. */
export const AMOUNTS: Invariant[] = [
  {
    no: 1,
    name: "every transfer has two sides and a positive amount, and all balances sum to 0",
    count: (tx) => tx`select count(*) as transfers from transfer`,
    find: (tx) => tx<Problems>`
      select format('transfer %s: amount %s from %s to %s', t.id, amount, debit_account,
        credit_account) as problem
        from transfer t
       where amount <= 0 or debit_account = credit_account
          or not exists (select 1 from account where id = debit_account union all select 1
            from house_account where id = debit_account)
          or not exists (select 1 from account where id = credit_account union all select 1
            from house_account where id = credit_account)
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
                       - coalesce((select sum(amount) from transfer where debit_account = a.id),
                         0) as journal,
                     coalesce((select sum(amount) from open_hold where account_id = a.id),
                       0) as open,
                     coalesce((select sum(request_cost) from ended_hold
                                where account_id = a.id and usage_seq > a.settled_seq),
                                  0) as unsettled
                from account a) b
       where posted <> journal or held <> open or accrued <> unsettled
         or posted - accrued - held < 0
       limit ${NAMED}`,
  },
  {
    no: 3,
    name: "used is captured plus open in each period, and every authorization fitted the limit then in force",
    count: (tx) => tx`
      select (select count(*) from child_key) as "child keys", (select count(*)
        from child_limit) as limits,
             (select count(*) from open_hold) + (select count(*) from ended_hold) as holds`,
    find: async (tx) => [
      ...(await tx<Problems>`
        select format('child key %s: daily %s (holds %s), monthly %s (holds %s), total %s (holds %s), held %s (open %s)',
                      c.id, c.used_daily, h.daily, c.used_monthly, h.monthly, c.used_total,
                        h.total, c.held, h.open) as problem
          from child_key c, lateral (
                 select coalesce(sum(coalesce(cost, amount)) filter (where h.day = c.day),
                   0) as daily,
                        coalesce(sum(coalesce(cost, amount)) filter (where h.month = c.month),
                          0) as monthly,
                        coalesce(sum(coalesce(cost, amount)), 0) as total,
                        coalesce(sum(amount) filter (where cost is null), 0) as open
                   from ${tx.unsafe(ALL_HOLDS)} h where h.account_id = c.account_id
                     and h.child_key_id = c.id) h
         where c.used_daily <> h.daily or c.used_monthly <> h.monthly or c.used_total <> h.total
           or c.held <> h.open
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
      select (select count(*) from ended_hold) as "ended holds", (select count(*)
        from open_hold) as "open holds",
             (select count(*) from transfer where kind = 'loss') as "house losses"`,
    find: (tx) => tx<Problems>`
      (select format('hold %s/%s is both open and ended', o.id, o.part) as problem
         from open_hold o join ended_hold e using (account_id, id, part) limit ${NAMED})
      union all
      (select format('hold %s: parts of a request ended apart', o.id)
         from open_hold o join ended_hold e using (account_id, id) limit ${NAMED})
      union all
      (select format('hold %s: cost %s of %s held, request cost %s', id, sum(cost), sum(amount),
        max(request_cost))
         from ended_hold group by account_id, id
        having sum(cost) > sum(amount) or (max(request_cost) is not null
          and max(request_cost) <> sum(cost))
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
      select count(distinct (account_id, id)) as requests from ended_hold
        where usage_seq is not null`,
    find: (tx) => tx<Problems>`
      (select format('hold %s has %s usage records', id, count(*)) as problem
         from ended_hold where usage_seq is not null group by account_id,
           id having count(*) > 1 limit ${NAMED})
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
];
