import { allHolds, type Invariant, NAMED, type Problems } from "./invariant.js";

/** What the records and their times must be: invariants 7 to 12. Posts are recomputed apart. */
export const RECORDS: Invariant[] = [
  {
    no: 7,
    name: "no hold is open longer than its deadline and a minute",
    count: (tx) => tx`select count(*) as "open holds" from open_hold`,
    find: (tx) => tx<Problems>`
      select format('hold %s is open, its deadline was %s', id, deadline) as problem from open_hold
       where part = 0
         and greatest(deadline, pg_postmaster_start_time(), (select resumed_at from sweep_pulse))
             < clock_timestamp() - interval '60 seconds'
       limit ${NAMED}`,
  },
  {
    no: 8,
    name: "journal and usage are append-only; each account's settled batches form one hash chain, which recomputes",
    count: (tx, { records }) => tx`
      select (select count(*) from settlement_post) as "links of chains",
             ${records}::bigint as "usage records"`,
    find: (tx, { accounts, ended }) => tx<Problems>`
      (select format('account %s, post %s: does not continue the one before', account_id, no)
         as problem
         from (select account_id, no, from_seq, to_seq, previous_hash,
                      lag(hash, 1, decode(repeat('00', 32), 'hex')) over chain as before,
                      lag(no, 1, 0::bigint) over chain as no_before,
                      lag(to_seq, 1, 0::bigint) over chain as last_seq
                 from settlement_post window chain as (partition by account_id order by no)) c
        where previous_hash <> before or no <> no_before + 1 or from_seq <> last_seq + 1
        limit ${NAMED})
      union all
      (select format('account %s: chain or watermark differ from its newest post', a.id)
         from account a left join settlement_post p on p.account_id = a.id and p.no = a.post_no
        where a.settled_seq <> coalesce(p.to_seq, 0) or a.settled_seq > a.usage_seq
           or a.chain <> coalesce(p.hash, decode(repeat('00', 32), 'hex'))
           or exists (select from settlement_post l where l.account_id = a.id and l.no > a.post_no)
        limit ${NAMED})
      union all
      (select format('account %s, post %s: another hash than at the checkpoint', b.account_id,
        b.post_no)
         from proof_account b
         left join settlement_post p on p.account_id = b.account_id and p.no = b.post_no
        where b.post_no > 0 and b.chain is distinct from p.hash limit ${NAMED})
      union all
      (select format('account %s: %s usage records, numbered %s to %s, up to %s are due', a.id,
        u.records, u.oldest, u.newest, a.usage_seq)
         from account a
         left join (select account_id, count(*) as records, min(usage_seq) as oldest,
                           max(usage_seq) as newest
                      from ${tx.unsafe(ended)} e where usage_seq is not null
                     group by account_id) u on u.account_id = a.id
         left join ${tx.unsafe(accounts)} b on b.account_id = a.id
        where coalesce(u.records, 0) + coalesce(b.records, 0) <> a.usage_seq
           or u.newest <> a.usage_seq limit ${NAMED})
      union all
      (select format('account %s: more than one usage record %s', e.account_id, e.usage_seq)
         from account a join ended_hold e on e.account_id = a.id and e.usage_seq > a.settled_seq
        where a.usage_seq > a.settled_seq
        group by e.account_id, e.usage_seq having count(*) > 1 limit ${NAMED})
      union all
      (select format('%s has lost its append-only trigger', c.oid::regclass)
         from pg_class c
        where c.relnamespace = 'public'::regnamespace
          and (c.relname in ('transfer', 'ended_hold', 'settlement_post', 'child_limit',
                 'model_price', 'audit_event', 'proof')
               or c.oid in (select inhrelid from pg_inherits
                             where inhparent = 'ended_hold'::regclass) and c.relkind = 'r')
          and not exists (select from pg_trigger g where g.tgrelid = c.oid
            and g.tgname = 'append_only' and g.tgenabled <> 'D'))
      union all
      (select format('the role %s may change %s', r.rolname, g.tgrelid::regclass)
         from pg_trigger g, pg_roles r
        where g.tgname = 'append_only' and r.rolname = 'keytoll_app'
          and has_table_privilege(r.oid, g.tgrelid, 'update, delete, truncate'))`,
  },
  {
    no: 9,
    name: "an account's time and period keys never go backwards",
    count: (tx, { holds }) => tx`select ${holds}::bigint as "ended holds"`,
    find: (tx, scope) => tx<Problems>`
      (select format('hold %s counts in %s and %s, authorized at %s', h.id, h.day, h.month,
        h.authorized_at) as problem
         from ${tx.unsafe(allHolds(scope))} h
        where h.day <> (h.authorized_at at time zone 'UTC')::date
           or h.month <> date_trunc('month',
             h.authorized_at at time zone 'UTC')::date limit ${NAMED})
      union all
      (select format('hold %s is of %s, its account only of %s', h.id, h.authorized_at, a.last_at)
         from ${tx.unsafe(allHolds(scope))} h join account a on a.id = h.account_id
        where greatest(h.authorized_at, h.ended_at) > a.last_at limit ${NAMED})
      union all
      (select format('hold %s ended before it was authorized', h.id)
         from ${tx.unsafe(scope.ended)} h where h.ended_at < h.authorized_at limit ${NAMED})
      union all
      (select format('account %s: its time %s is before that of the checkpoint', a.id, a.last_at)
         from account a join ${tx.unsafe(scope.accounts)} b on b.account_id = a.id
        where a.last_at < greatest(b.through, b.judged) limit ${NAMED})
      union all
      (select format('account %s: usage record %s is older than the one before', account_id,
        usage_seq)
         from (select e.account_id, e.usage_seq, e.ended_at, a.settled_seq,
                      lag(e.ended_at) over (partition by e.account_id order by e.usage_seq) as before
                 from account a
                 join ended_hold e on e.account_id = a.id and e.usage_seq >= a.settled_seq
                where a.usage_seq > a.settled_seq) s
        where ended_at < before limit ${NAMED})`,
  },
  {
    no: 10,
    name: "a refusal changes nothing: no counter moved without a hold behind it",
    count: (tx) => tx`select coalesce(sum(requests_total), 0)::bigint as requests from child_key`,
    find: (tx, { children }) => tx<Problems>`
      select format('child key %s counts %s requests, %s were captured', id, requests_total,
        captured) as problem
        from (select c.id, c.requests_total,
                     coalesce(s.requests, 0) + coalesce(b.requests, 0) as captured
                from child_key c left join child_sum s on s.child_key_id = c.id
                left join ${tx.unsafe(children)} b on b.child_key_id = c.id) k
       where requests_total <> captured limit ${NAMED}`,
  },
  {
    no: 11,
    name: "settlement posts equal their transfers, and roll-ups equal the usage behind them",
    count: (tx, { rolledDay }) => tx`
      select (select count(*) from transfer where kind = 'settlement') as settlements,
             (select count(*) from usage_rollup where day > ${rolledDay}::date) as "roll-ups"`,
    find: (tx, { whole, rolledDay, accounts }) => tx<Problems>`
      (select format('account %s, post %s of %s: transfer %s', p.account_id, p.no, p.amount,
        coalesce(t.id || ' of ' || t.amount, 'is missing')) as problem
         from settlement_post p left join transfer t on t.id = p.transfer_id
           and t.kind = 'settlement' and t.debit_account = p.account_id
        where p.amount <> coalesce(t.amount, 0) limit ${NAMED})
      union all
      (select format('settlement transfer %s has no post', t.id)
         from transfer t where t.kind = 'settlement' and not exists (select 1
           from settlement_post p where p.transfer_id = t.id) limit ${NAMED})
      union all
      (select format('roll-up of child key %s on %s (%s): %s requests of %s, usage says %s of %s',
                     child_key_id, day, model, r.requests, r.cost, u.requests, u.cost)
         from (select e.account_id, e.child_key_id, coalesce(e.model, '') as model,
                      (e.ended_at at time zone 'UTC')::date as day, count(*) as requests,
                      sum(e.request_cost) as cost
                 from ${tx.unsafe(whole ? WHOLE_USAGE : usageSince(accounts))} e
                 join usage_rolled w on w.account_id = e.account_id and e.usage_seq <= w.seq
                where (e.ended_at at time zone 'UTC')::date > ${rolledDay}::date
                group by 1, 2, 3, 4) u
         full join (select * from usage_rollup where day > ${rolledDay}::date) r
           using (account_id, child_key_id, model, day)
        where r.requests <> u.requests or r.cost <> u.cost or u.requests is null
           or r.requests is null
        limit ${NAMED})`,
  },
  {
    no: 12,
    name: "no key spent after it was disabled, deleted or expired",
    count: (tx) => tx`
      select (select count(*) from child_key where status <> 'active'
        or expires_at <= clock_timestamp()) as "inactive child keys",
             (select count(*) from management_key where status <> 'active'
               or expires_at <= clock_timestamp()) as "inactive management keys"`,
    find: (tx, scope) => tx<Problems>`
      select format('hold %s was authorized at %s by child key %s, which could not spend', h.id,
        h.authorized_at, k.id) as problem
        from ${tx.unsafe(allHolds(scope))} h
        join (select c.id, c.account_id, x.since, x.ends
                from child_key c join management_key m on m.id = c.management_key_id,
                     lateral (values (c.updated_at, case when c.status = 'active' then c.expires_at
                                                    else '-infinity' end),
                                     (m.updated_at, case when m.status = 'active' then m.expires_at
                                                    else '-infinity' end)) x(since, ends)
               where x.ends is not null) k on k.id = h.child_key_id and k.account_id = h.account_id
       where h.authorized_at > k.since and h.authorized_at >= k.ends
       limit ${NAMED}`,
  },
];

const WHOLE_USAGE = "ended_hold";

/** Usage of the days that are not compared yet, found by its number. */
const usageSince = (accounts: string): string => `
  (select e.* from account a left join ${accounts} b on b.account_id = a.id,
          lateral (select * from ended_hold h where h.account_id = a.id
                      and h.usage_seq > coalesce(b.rolled_seq, 0)) e
    where a.usage_seq > coalesce(b.rolled_seq, 0))`;
