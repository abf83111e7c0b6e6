-- Where an owner wants to be told of events.
create table webhook_endpoint (
  id              uuid primary key,
  account_id      uuid not null references account,
  url             text not null,
  events          text[],                     -- null: all
  status          text not null default 'active' check (status in ('active', 'paused', 'disabled', 'deleted')),
  status_reason   text,                       -- why it is disabled
  disabled_at     timestamptz,
  secret_version  int not null default 1,
  last_sequence   bigint not null default 0,
  delivered_total bigint not null default 0,
  failed_total    bigint not null default 0,
  failing_since   timestamptz,                -- nothing was delivered since the try in vain at this time
  failures        int not null default 0,     -- tries in vain since then
  reminded_at     timestamptz,
  created_at      timestamptz not null,
  updated_at      timestamptz not null
);
create index on webhook_endpoint (account_id, id);

-- Signing secrets, encrypted; key_name tells with which of several keys.
create table webhook_secret (
  endpoint_id uuid not null references webhook_endpoint,
  version     int not null,
  key_name    text not null,
  sealed      bytea not null,
  valid_until timestamptz,                    -- end of the grace of one that was replaced
  created_at  timestamptz not null default keytoll_clock(),
  primary key (endpoint_id, version)
);

-- What an account wants to be warned of, and what it was told already.
create table webhook_setting (
  account_id     uuid primary key references account,
  balance_low    bigint,                      -- null: a tenth of the last payment
  percents       int[] not null default '{50,80,100}',
  low_told       boolean not null default false,
  depleted_told  boolean not null default false
);

-- What happened, once for its natural key.
create table webhook_event (
  id          uuid primary key,
  account_id  uuid not null references account,
  natural_key text not null,
  type        text not null,
  data        jsonb not null,
  at          timestamptz not null,
  unique (account_id, natural_key)
);
create trigger append_only before update or delete on webhook_event
  for each row execute function refuse_change();
create trigger no_truncate before truncate on webhook_event
  for each statement execute function refuse_change();

-- One event on its way to one endpoint. Sequences are without gaps per endpoint and become visible in their order.
create table webhook_delivery (
  id               uuid primary key,
  endpoint_id      uuid not null references webhook_endpoint,
  event_id         uuid not null references webhook_event,
  sequence         bigint,                    -- null: a test
  status           text not null default 'pending' check (status in ('pending', 'delivered', 'failed')),
  apart            boolean not null default false, -- out of the endpoint's line, tried by a workflow of its own
  attempts         int not null default 0,
  first_attempt_at timestamptz,
  next_at          timestamptz not null,
  last_status      int,                       -- HTTP
  last_error       text,
  delivered_at     timestamptz,
  reminded_at      timestamptz,
  created_at       timestamptz not null,
  unique (endpoint_id, sequence)
);
create index on webhook_delivery (endpoint_id, id);
create index webhook_delivery_pending on webhook_delivery (endpoint_id, sequence) where status = 'pending';

-- Whether an endpoint is told of a type. What happens while it is paused is kept for it; once it has been dead for a
-- month, no longer.
create function webhook_takes(e webhook_endpoint, p_type text) returns boolean language sql stable as $$
  select e.status <> 'deleted' and (e.events is null or p_type = any (e.events))
     and (e.disabled_at is null or e.disabled_at > keytoll_clock() - interval '30 days')
$$;

-- Records events that some endpoint wants to be told of, with their deliveries and one outbox entry for each endpoint.
-- The endpoints are locked, so that their sequences are in the order of the commits. An event whose natural key is
-- there already is passed by.
create function record_webhook_events(
  p_accounts uuid[], p_types text[], p_keys text[], p_data jsonb[], p_at timestamptz[]
) returns void language plpgsql as $$
declare
  v_new int[];
begin
  select array_agg(g.n::int order by g.n) into v_new
    from unnest(p_accounts, p_types, p_keys) with ordinality g(account_id, type, key, n)
   where exists (select from webhook_endpoint e where e.account_id = g.account_id and webhook_takes(e, g.type))
     and not exists (select from webhook_event v where v.account_id = g.account_id and v.natural_key = g.key);
  if v_new is null then return; end if;
  perform from webhook_endpoint e
    where e.account_id in (select p_accounts[n] from unnest(v_new) n) and e.status <> 'deleted'
    order by e.id for no key update;

  with given as materialized (
    select new_id(keytoll_clock()) as id, n, p_accounts[n] as account_id, p_types[n] as type from unnest(v_new) n),
  fresh as (
    insert into webhook_event (id, account_id, natural_key, type, data, at)
    select g.id, g.account_id, p_keys[g.n], g.type, p_data[g.n], p_at[g.n] from given g order by g.n
    on conflict (account_id, natural_key) do nothing
    returning id),
  sent as (
    insert into webhook_delivery (id, endpoint_id, event_id, sequence, next_at, created_at)
    select new_id(keytoll_clock()), e.id, g.id, e.last_sequence + row_number() over (partition by e.id order by g.n),
           keytoll_clock(), keytoll_clock()
      from fresh join given g using (id)
      join webhook_endpoint e on e.account_id = g.account_id and webhook_takes(e, g.type)
    returning endpoint_id),
  numbered as (
    update webhook_endpoint e set last_sequence = e.last_sequence + s.count
      from (select endpoint_id, count(*) from sent group by 1) s
     where e.id = s.endpoint_id
    returning e.id, e.status)
  insert into outbox (kind, key) select 'webhook_endpoint', id from numbered where status = 'active';
  if found then perform pg_notify('outbox', ''); end if;
end $$;

-- A key as an event shows it.
create function webhook_child(c child_key) returns jsonb language sql stable as $$
  select jsonb_build_object('kind', 'child', 'id', c.id, 'management_key_id', c.management_key_id, 'name', c.name,
    'hint', c.hint, 'status', c.status, 'expires_at', c.expires_at, 'limit_daily_ngonka', c.limit_daily::text,
    'limit_monthly_ngonka', c.limit_monthly::text, 'limit_total_ngonka', c.limit_total::text)
$$;
create function webhook_management(m management_key) returns jsonb language sql stable as $$
  select jsonb_build_object('kind', 'management', 'id', m.id, 'name', m.name, 'hint', m.hint, 'status', m.status,
    'expires_at', m.expires_at)
$$;

-- Names of the fields that a change to a key is on record with, as callers know them.
create function webhook_changed(p_action text, p_change jsonb) returns jsonb language sql immutable as $$
  select case when p_action like '%.rotated' then '["secret"]'::jsonb
              else (select coalesce(jsonb_agg(lower(regexp_replace(name, '([A-Z])', '_\1', 'g'))
                             || case when name like 'limit%' then '_ngonka' else '' end order by name), '[]')
                      from jsonb_object_keys(p_change) name) end
$$;

-- The balance under which an account wants to be warned.
create function balance_low_of(p_account uuid) returns bigint language sql stable as $$
  select coalesce((select s.balance_low from webhook_setting s where s.account_id = p_account),
                  (select t.amount / 10 from transfer t where t.credit_account = p_account and t.kind = 'credit'
                    order by t.id desc limit 1), 0)
$$;

-- What goes on record about keys and payments is told to the owner, in the same transaction, whoever records it.
create function tell_of_audit() returns trigger language plpgsql as $$
begin
  if not exists (select from added a join webhook_endpoint e on e.account_id = a.account_id and e.status <> 'deleted') then
    return null;
  end if;
  -- settings before endpoints: the order in which everybody locks them
  update webhook_setting s
     set low_told = s.low_told and x.posted - x.accrued < balance_low_of(x.id), depleted_told = false
    from added a join account x on x.id = a.account_id
   where a.action = 'account.credited' and s.account_id = x.id;
  perform record_webhook_events(array_agg(t.account_id order by t.id), array_agg(t.type order by t.id),
      array_agg(t.type || '/' || t.subject || '/' || t.id order by t.id), array_agg(t.data order by t.id),
      array_agg(t.at order by t.id))
    from (
      select a.id, a.account_id, a.subject, a.at,
             'key.' || replace(split_part(a.action, '.', 2), 'rotated', 'updated') as type,
             jsonb_build_object('key', coalesce(webhook_child(c), webhook_management(m)))
               || case when a.action ~ '(updated|rotated)$'
                       then jsonb_build_object('changed', webhook_changed(a.action, a.change)) else '{}' end as data
        from added a
        left join child_key c on c.id = case when a.action like 'child_key.%' then a.subject::uuid end
        left join management_key m on m.id = case when a.action like 'management_key.%' then a.subject::uuid end
       where a.account_id is not null
         and a.action ~ '^(child_key|management_key)[.](created|updated|rotated|expired|deleted)$'
      union all
      select a.id, a.account_id, a.change ->> 'transfer', a.at, 'deposit.credited',
             jsonb_build_object('transfer_id', a.change ->> 'transfer', 'amount_ngonka', a.change ->> 'amount',
               'reference', a.change ->> 'reference', 'balance_ngonka', (x.posted - x.accrued)::text)
        from added a join account x on x.id = a.account_id
       where a.action = 'account.credited') t
  having count(*) > 0;
  return null;
end $$;
create trigger tell after insert on audit_event referencing new table as added
  for each statement execute function tell_of_audit();

-- A limit of a child as an event shows it, and the key of its period: a total has no next period, but may be raised.
create function webhook_limit(c child_key, p_limit text, p_period text, p_used bigint, p_resets_at timestamptz)
  returns jsonb language sql stable as $$
  select jsonb_build_object('child_key_id', c.id, 'management_key_id', c.management_key_id, 'name', c.name,
    'limit', p_limit, 'period', p_period, 'used_ngonka', p_used::text, 'resets_at', p_resets_at,
    'limit_ngonka', (case p_limit when 'daily' then c.limit_daily when 'monthly' then c.limit_monthly
                                  else c.limit_total end)::text)
$$;

-- Warns of a low balance, once until a payment lifts it above the mark; of a depleted one, once until a payment.
-- p_wanted: what a request needed in vain, 0 where there was none.
create function note_balance(p_account uuid, p_wanted bigint) returns void language plpgsql as $$
declare
  s webhook_setting;
  v_balance bigint;
  v_low bigint := balance_low_of(p_account);
  v_key text;
  v_types text[];
begin
  insert into webhook_setting (account_id) values (p_account) on conflict do nothing;
  select * into s from webhook_setting x where x.account_id = p_account for no key update;
  -- read after the lock: a payment moves both in one transaction
  select a.posted - a.accrued, a.usage_seq || '/' || a.posted into v_balance, v_key from account a where a.id = p_account;
  v_types := case when v_balance < v_low and not s.low_told then array['balance.low'] else '{}' end
          || case when (v_balance <= 0 or v_balance < p_wanted) and not s.depleted_told
                  then array['balance.depleted'] else '{}' end;
  if v_types = '{}' then return; end if;
  perform record_webhook_events(array_agg(p_account), array_agg(t), array_agg(t || '/' || v_key),
      array_agg(jsonb_build_object('balance_ngonka', v_balance::text, 'low_ngonka', v_low::text)),
      array_agg(keytoll_clock()))
    from unnest(v_types) t;
  update webhook_setting x
     set low_told = low_told or 'balance.low' = any (v_types),
         depleted_told = depleted_told or 'balance.depleted' = any (v_types)
   where x.account_id = p_account;
end $$;

-- Looks at an account's newest usage before it is posted, p_max records at most, and records which limits of the
-- children behind it have passed a mark. Marks count what is captured, never open holds.
create function note_usage(p_account uuid, p_max bigint) returns void language plpgsql as $$
declare
  v_percents int[];
begin
  if not exists (select from webhook_endpoint e where e.account_id = p_account and e.status <> 'deleted') then return; end if;
  perform note_balance(p_account, 0);
  v_percents := coalesce((select s.percents from webhook_setting s where s.account_id = p_account), '{50,80,100}');
  perform record_webhook_events(array_agg(p_account), array_agg(t.type order by t.key), array_agg(t.key order by t.key),
      array_agg(t.data order by t.key), array_agg(keytoll_clock()))
    from (
      with touched as (
        select distinct h.child_key_id as id
          from account a join ended_hold h on h.account_id = a.id
           and h.usage_seq > a.settled_seq and h.usage_seq <= a.settled_seq + p_max
         where a.id = p_account),
      held as (
        select o.child_key_id, o.day, o.month, sum(o.amount)::bigint as amount
          from open_hold o where o.account_id = p_account group by 1, 2, 3),
      used as (
        select c.id, l.name, l.period, l.period_key, l.cap, webhook_limit(c, l.name, l.period, l.used - h.amount, l.resets_at) as data,
               l.used - h.amount as used
          from touched t join child_key c on c.id = t.id
         cross join lateral (values
           ('daily', c.day::text, c.day::text, c.limit_daily, c.used_daily, (c.day + 1)::timestamp at time zone 'UTC'),
           ('monthly', to_char(c.month, 'YYYY-MM'), to_char(c.month, 'YYYY-MM'), c.limit_monthly, c.used_monthly,
             (c.month + interval '1 month') at time zone 'UTC'),
           ('total', 'total', 'total/' || c.limit_total, c.limit_total, c.used_total, null)
         ) l(name, period, period_key, cap, used, resets_at)
         cross join lateral (
           select coalesce(sum(o.amount), 0)::bigint as amount from held o
            where o.child_key_id = c.id and case l.name when 'daily' then o.day = c.day
                                                       when 'monthly' then o.month = c.month else true end) h
         where l.cap > 0)
      select 'limit.threshold' as type, data || jsonb_build_object('percent', p) as data,
             'limit.threshold/' || id || '/' || period_key || '/' || lpad(p::text, 3, '0') as key
        from used cross join unnest(v_percents) p where used::numeric * 100 >= cap::numeric * p
      union all
      select 'limit.reached', data, 'limit.reached/' || id || '/' || period_key from used where used >= cap) t
  having count(*) > 0;
end $$;

-- Records that requests were refused for a limit of their child (daily, monthly, total), or for the balance.
create function note_refusals(p_children uuid[], p_limits text[], p_periods text[], p_wanted bigint[])
  returns void language plpgsql as $$
declare
  r record;
begin
  for r in select c.account_id, max(q.wanted) as wanted
             from unnest(p_children, p_limits, p_wanted) q(child, name, wanted) join child_key c on c.id = q.child
            where q.name = 'balance'
              and exists (select from webhook_endpoint e where e.account_id = c.account_id and e.status <> 'deleted')
            group by 1 order by 1 loop
    perform note_balance(r.account_id, r.wanted);
  end loop;
  perform record_webhook_events(array_agg(t.account_id), array_agg('limit.reached'::text), array_agg(t.key),
      array_agg(t.data), array_agg(keytoll_clock()))
    from (
      select c.account_id,
             'limit.reached/' || c.id || '/' || q.period
               || case q.name when 'total' then '/' || coalesce(c.limit_total, 0) else '' end as key,
             webhook_limit(c, q.name, q.period,
               case q.name when 'daily' then c.used_daily when 'monthly' then c.used_monthly else c.used_total end,
               case q.name when 'daily' then (q.period::date + 1)::timestamp at time zone 'UTC'
                           when 'monthly' then ((q.period || '-01')::date + interval '1 month') at time zone 'UTC' end) as data
        from unnest(p_children, p_limits, p_periods) q(child, name, period) join child_key c on c.id = q.child
       where q.name <> 'balance') t
  having count(*) > 0;
end $$;

-- Records that limits of these children began anew, with what was used of them in the period that ended: from p_ended to
-- before p_begins.
create function note_resets(p_children uuid[], p_used bigint[], p_requests bigint[], p_kind text, p_ended date, p_begins date)
  returns void language sql as $$
  select record_webhook_events(array_agg(t.account_id), array_agg('limit.reset'::text), array_agg(t.key),
      array_agg(t.data), array_agg(t.at))
    from (
      select c.account_id, 'limit.reset/' || c.id || '/' || p_kind || '/' || p_begins as key,
             webhook_limit(c, k.name, k.period, u.used, null) - 'resets_at'
               || jsonb_build_object('requests', u.requests) as data,
             p_begins::timestamp at time zone 'UTC' as at
        from unnest(p_children, p_used, p_requests) u(child, used, requests)
        join child_key c on c.id = u.child
       cross join (select case p_kind when 'day' then 'daily' else 'monthly' end as name,
                          case p_kind when 'day' then p_ended::text else to_char(p_ended, 'YYYY-MM') end as period) k) t
  having count(*) > 0
$$;
