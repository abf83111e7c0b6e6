import { type Invariant, NAMED, type Problems } from "./invariant.js";
import { overruns } from "./overruns.js";

/** What every amount must add up to: invariants 1 to 6. The journal is always read whole. */
export const AMOUNTS: Invariant[] = [
  {
    no: 1,
    name: "every transfer has two sides and a positive amount, and all balances sum to 0",
    count: (tx) => tx`
      select (select count(*) from transfer) as transfers,
             (select count(*) from house_account) as "accounts of the house"`,
    find: (tx) => tx<Problems>`
      (select format('transfer %s: amount %s from %s to %s', id, amount, debit_account,
        credit_account) as problem
         from transfer where amount <= 0 or debit_account = credit_account limit ${NAMED})
      union all
      (select format('transfer %s: there is no account %s', t.id, t.party)
         from (select id, debit_account as party from transfer
               union all select id, credit_account from transfer) t
        where not exists (select from account a where a.id = t.party)
          and not exists (select from house_account h where h.id = t.party) limit ${NAMED})`,
  },
  {
    no: 2,
    name: "posted, held and accrued are what journal, open holds and unsettled usage say; available is never negative",
    count: (tx) => tx`select count(*) as accounts from account`,
    find: (tx) => tx<Problems>`
      with journal as (
        select id, sum(amount) as amount
          from (select credit_account as id, amount from transfer
                union all select debit_account, -amount from transfer) t group by id),
      open as (select account_id as id, sum(amount) as amount from open_hold group by account_id)
      select format('account %s: posted %s (journal %s), held %s (open holds %s), accrued %s (unsettled usage %s)',
                    id, posted, journal, held, open, accrued, unsettled) as problem
        from (select a.*, coalesce(j.amount, 0) as journal, coalesce(o.amount, 0) as open,
                     case when a.usage_seq > a.settled_seq or a.accrued <> 0 then
                       coalesce((select sum(e.request_cost) from ended_hold e
                                  where e.account_id = a.id and e.usage_seq > a.settled_seq), 0)
                     else 0 end as unsettled
                from account a left join journal j on j.id = a.id left join open o on o.id = a.id) b
       where posted <> journal or held <> open or accrued <> unsettled
         or posted - accrued - held < 0
       limit ${NAMED}`,
  },
  {
    no: 3,
    name: "used is captured plus open in each period, and every authorization fitted the limit then in force",
    count: (tx, { holds }) => tx`
      select (select count(*) from child_key) as "child keys",
             (select count(*) from child_limit) as limits,
             (select count(*) from open_hold) + ${holds}::bigint as holds`,
    find: async (tx, scope) => {
      const found = [
        ...(await tx<Problems>`
          select format('child key %s: daily %s (holds %s), monthly %s (holds %s), total %s (holds %s), held %s (open %s)',
                        id, used_daily, daily, used_monthly, monthly, used_total, total, held,
                        open) as problem
            from (select c.*,
                         coalesce(s.daily, 0) + case when b.day = c.day then b.used_daily else 0 end
                           as daily,
                         coalesce(s.monthly, 0)
                           + case when b.month = c.month then b.used_monthly else 0 end as monthly,
                         coalesce(s.total, 0) + coalesce(b.used_total, 0) as total,
                         coalesce(o.amount, 0) as open,
                         b.day > c.day or b.month > c.month as went_back
                    from child_key c
                    left join child_sum s on s.child_key_id = c.id
                    left join ${tx.unsafe(scope.children)} b on b.child_key_id = c.id
                    left join (select child_key_id, sum(amount) as amount from open_hold
                                group by child_key_id) o on o.child_key_id = c.id) k
           where used_daily <> daily or used_monthly <> monthly or used_total <> total
              or held <> open or went_back
           limit ${NAMED}`),
      ];
      for (const query of overruns(scope)) found.push(...(await tx.unsafe<Problems>(query)));
      return found;
    },
  },
  {
    no: 4,
    name: "each hold ends exactly once and is captured at most at what it held; excess cost is the house's",
    count: (tx, { holds }) => tx`
      select ${holds}::bigint as "ended holds",
             (select count(*) from open_hold) as "open holds",
             (select count(*) from transfer where kind = 'loss') as "house losses"`,
    // Most requests have one part that says it all; only those of several parts are summed up
    find: (tx, { ended }) => tx<Problems>`
      (select format('hold %s/%s is both open and ended', o.id, o.part) as problem
         from open_hold o join ended_hold e using (account_id, id, part) limit ${NAMED})
      union all
      (select format('hold %s: parts of a request ended apart', o.id)
         from open_hold o join ended_hold e using (account_id, id) limit ${NAMED})
      union all
      (select format('hold %s/%s: cost %s of %s held, %s', id, part, cost, amount, outcome)
         from ${tx.unsafe(ended)} e
        where cost > amount or cost < 0 or (cost > 0 and outcome <> 'captured')
           or (usage_seq is not null) <> (part = 0 and outcome = 'captured')
        limit ${NAMED})
      union all
      (select format('hold %s: request cost %s, its parts cost %s', id, request_cost, cost)
         from (select h.id, max(h.request_cost) as request_cost, sum(h.cost) as cost,
                      count(distinct h.ended_at) as ends
                 from (select distinct account_id, id from ${tx.unsafe(ended)} e
                        where part > 0 or (usage_seq is not null and request_cost <> cost)) s
                 join ended_hold h using (account_id, id)
                group by h.account_id, h.id) r
        where coalesce(request_cost, 0) <> cost or ends > 1 limit ${NAMED})
      union all
      (select format('loss %s is not the house''s', id) from transfer
        where kind = 'loss' and (debit_account <> '00000000-0000-0000-0000-000000000003'
                              or credit_account <> '00000000-0000-0000-0000-000000000004') limit ${NAMED})`,
  },
  {
    no: 5,
    name: "the same id or reference had at most one effect",
    count: (tx, { records }) => tx`
      select ${records}::bigint as requests, (select count(*) from transfer) as transfers`,
    // What a unique index keeps needs no looking for, as long as the index is there
    find: (tx) => tx<Problems>`
      (select format('%s no longer refuses a second row of the same %s', t.name, t.columns) as problem
         from (values ('ended_hold', 'account_id, id, part'), ('open_hold', 'account_id, id, part'),
                      ('transfer', 'kind, reference'), ('settlement_post', 'account_id, no')
              ) t(name, columns)
        where not exists (
          select from pg_index i
           where i.indrelid = t.name::regclass and i.indisunique and i.indisvalid
             and i.indpred is null
             and (select string_agg(a.attname, ', ' order by k.n)
                    from unnest(i.indkey) with ordinality k(attnum, n)
                    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum)
                 = t.columns))
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
