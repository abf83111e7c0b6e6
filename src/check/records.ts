import { ALL_HOLDS, type Invariant, NAMED, type Problems } from "./invariant.js";

/** What the records and their times must be: invariants 7 to 12. */
export const RECORDS: Invariant[] = [
  {
    no: 7,
    name: "no hold is open longer than its deadline and a minute",
    count: (tx) => tx`select count(*) as "open holds" from open_hold`,
    find: (tx) => tx<Problems>`
      select format('hold %s is open, its deadline was %s', id, deadline) as problem from open_hold
       where part = 0 and greatest(deadline,
         pg_postmaster_start_time()) < clock_timestamp() - interval '60 seconds'
       limit ${NAMED}`,
  },
  {
    no: 8,
    name: "journal and usage are append-only; each account's settled batches form one hash chain, which recomputes",
    count: (tx) => tx`
      select (select count(*) from settlement_post) as posts,
             (select count(*) from ended_hold where usage_seq is not null) as "usage records"`,
    find: (tx) => tx<Problems>`
      (select format('account %s, post %s: records %s to %s do not recompute', account_id, no,
        from_seq, to_seq) as problem
         from (select p.*, d.records, d.amount as summed, d.digest,
                      coalesce(lag(hash) over chain, decode(repeat('00', 32), 'hex')) as before,
                      coalesce(lag(to_seq) over chain, 0) as last_seq
                 from settlement_post p, lateral usage_digest(p.account_id, p.from_seq, p.to_seq) d
               window chain as (partition by account_id order by no)) c
        where previous_hash <> before or from_seq <> last_seq + 1
          or records <> to_seq - from_seq + 1 or amount <> summed
           or hash <> post_hash(previous_hash, account_id, no, from_seq, to_seq, amount, digest)
        limit ${NAMED})
      union all
      (select format('account %s: chain or watermark differ from its newest post', a.id)
         from account a left join lateral (select * from settlement_post p
           where p.account_id = a.id order by no desc limit 1) p on true
        where a.settled_seq <> coalesce(p.to_seq, 0) or a.post_no <> coalesce(p.no, 0)
           or a.chain <> coalesce(p.hash, decode(repeat('00', 32), 'hex')) limit ${NAMED})
      union all
      (select format('account %s: %s usage records, numbered up to %s', a.id, u.records,
        a.usage_seq)
         from account a, lateral (select count(*) as records, coalesce(max(usage_seq),
           0) as newest, count(distinct usage_seq) as numbers
                                    from ended_hold e where e.account_id = a.id
                                      and e.usage_seq is not null) u
        where u.records <> a.usage_seq or u.newest <> a.usage_seq
          or u.numbers <> a.usage_seq limit ${NAMED})
      union all
      (select format('%s has lost its append-only trigger', t.name)
         from unnest(array['transfer', 'ended_hold', 'settlement_post', 'child_limit',
           'model_price', 'audit_event']) t(name)
        where not exists (select 1 from pg_trigger g where g.tgrelid = t.name::regclass
          and g.tgname = 'append_only' and g.tgenabled <> 'D'))`,
  },
  {
    no: 9,
    name: "an account's time and period keys never go backwards",
    count: (tx) =>
      tx`select count(*) as "usage records" from ended_hold where usage_seq is not null`,
    find: (tx) => tx<Problems>`
      (select format('account %s: usage record %s is older than the one before', account_id,
        usage_seq) as problem
         from (select account_id, usage_seq, ended_at, lag(ended_at) over (partition by account_id
           order by usage_seq) as before
                 from ended_hold where usage_seq is not null) s
        where ended_at < before limit ${NAMED})
      union all
      (select format('hold %s counts in %s and %s, authorized at %s', h.id, h.day, h.month,
        h.authorized_at)
         from ${tx.unsafe(ALL_HOLDS)} h
        where h.day <> (h.authorized_at at time zone 'UTC')::date
           or h.month <> date_trunc('month',
             h.authorized_at at time zone 'UTC')::date limit ${NAMED})
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
      select format('child key %s counts %s requests, %s were captured', c.id, c.requests_total,
        u.captured) as problem
        from child_key c, lateral (select count(*) as captured from ended_hold e
                                    where e.account_id = c.account_id and e.child_key_id = c.id
                                      and e.usage_seq is not null) u
       where c.requests_total <> u.captured limit ${NAMED}`,
  },
  {
    no: 11,
    name: "settlement posts equal their transfers, and roll-ups equal the usage behind them",
    count: (tx) => tx`
      select (select count(*) from transfer where kind = 'settlement') as settlements,
             (select count(*) from usage_rollup) as "roll-ups"`,
    find: (tx) => tx<Problems>`
      (select format('account %s, post %s of %s: transfer %s', p.account_id, p.no, p.amount,
        coalesce(t.amount::text, 'is missing')) as problem
         from settlement_post p left join transfer t on t.id = p.transfer_id
           and t.kind = 'settlement' and t.debit_account = p.account_id
        where p.amount <> coalesce(t.amount, 0) limit ${NAMED})
      union all
      (select format('settlement transfer %s has no post', t.id)
         from transfer t where t.kind = 'settlement' and not exists (select 1
           from settlement_post p where p.transfer_id = t.id) limit ${NAMED})
      union all
      (select format('roll-up of child key %s on %s (%s): %s requests of %s, usage says %s of %s',
                     r.child_key_id, r.day, r.model, r.requests, r.cost, u.requests, u.cost)
         from usage_rollup r, lateral (
                select count(*) as requests, coalesce(sum(e.request_cost), 0) as cost
                  from ended_hold e
                 where e.account_id = r.account_id and e.child_key_id = r.child_key_id
                   and e.usage_seq is not null
                   and coalesce(e.model, '') = r.model
                     and (e.ended_at at time zone 'UTC')::date = r.day) u
        where r.requests <> u.requests or r.cost <> u.cost limit ${NAMED})`,
  },
  {
    no: 12,
    name: "no key spent after it was disabled, deleted or expired",
    count: (tx) => tx`
      select (select count(*) from child_key where status <> 'active'
        or expires_at <= clock_timestamp()) as "inactive child keys",
             (select count(*) from management_key where status <> 'active'
               or expires_at <= clock_timestamp()) as "inactive management keys"`,
    find: (tx) => tx<Problems>`
      select format('hold %s was authorized at %s by child key %s, which could not spend', h.id,
        h.authorized_at, c.id) as problem
        from ${tx.unsafe(ALL_HOLDS)} h
        join child_key c on c.id = h.child_key_id and c.account_id = h.account_id
        join management_key m on m.id = c.management_key_id
       where (h.authorized_at > c.updated_at and (c.status <> 'active'
         or h.authorized_at >= c.expires_at))
          or (h.authorized_at > m.updated_at and (m.status <> 'active'
            or h.authorized_at >= m.expires_at))
       limit ${NAMED}`,
  },
];
