-- Roll-ups are cut at usage numbers: an account's records up to its number here are in them, each once, under the day of
-- its own capture. What is captured into a day that was summed up before, because the database's clock stepped back, has
-- a higher number: the next run adds it.
create table usage_rolled (
  account_id uuid primary key,
  seq        bigint not null
);

-- Number of an account's last usage record before an instant, p_after where none has a higher one. Numbers and times
-- grow together, so it is found by halving, the newest first: a roll-up reads what it sums up only, however much came
-- before or after. What was taken off is older.
drop function last_usage_before;
create function last_usage_before(p_account uuid, p_at timestamptz, p_after bigint) returns bigint language plpgsql stable
  set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  v_low bigint := p_after;
  v_high bigint;
  v_middle bigint;
  v_at timestamptz;
begin
  select a.usage_seq into v_high from account a where a.id = p_account;
  v_middle := v_high;
  while v_low < v_high loop
    select e.ended_at into v_at from ended_hold e where e.account_id = p_account and e.usage_seq = v_middle;
    if found and v_at >= p_at then v_high := v_middle - 1; else v_low := v_middle; end if;
    v_middle := (v_low + v_high + 1) / 2;
  end loop;
  return v_low;
end $$;

-- What was summed up until now, day by day. A day that was left in the middle is summed up anew.
do $$
declare
  v_until date := (select max(period) from period_reset where finished_at is not null);
begin
  delete from usage_rollup where v_until is null or day >= v_until;
  insert into usage_rolled
    select s.id, s.seq
      from (select a.id, last_usage_before(a.id, v_until::timestamp at time zone 'UTC', 0) as seq
              from account a where a.usage_seq > 0 and v_until is not null) s
     where s.seq > 0;
end $$;

-- Whoever sums up or closes a period holds this until it commits: one after the other, so that a closed period's totals
-- miss nothing.
create function lock_rollups() returns void language sql as $$
  select pg_advisory_xact_lock(hashtext('usage_rollup'))
$$;

-- Adds up to p_max usage records of these accounts (ascending) to the roll-ups: those captured before p_until that are
-- not in them yet. Days and months that were closed before get what came late. Answers how many, and whether more wait.
create function roll_up_usage(p_accounts uuid[], p_until timestamptz, p_max bigint,
  out records bigint, out more boolean) language plpgsql as $$
declare
  v_accounts uuid[];
  v_from bigint[];
  v_to bigint[];
begin
  perform lock_rollups();
  select array_agg(c.id), array_agg(c.low), array_agg(c.high), sum(c.high - c.low), bool_or(c.high < c.last)
    into v_accounts, v_from, v_to, records, more
    from (select w.id, w.low, w.last,
                 least(w.last, w.low + greatest(0, p_max - sum(w.last - w.low) over (order by w.id) + (w.last - w.low)))::bigint as high
            from (select s.id, s.low, last_usage_before(s.id, p_until, s.low) as last
                    from (select a.id, coalesce((select r.seq from usage_rolled r where r.account_id = a.id), 0) as low
                            from unnest(p_accounts) a(id)) s) w
           where w.last > w.low) c
   where c.high > c.low or c.last > c.high;
  records := coalesce(records, 0);
  more := coalesce(more, false);
  if records = 0 then return; end if;

  insert into usage_rolled as r
    select q.id, q.high from unnest(v_accounts, v_to) q(id, high)
    on conflict (account_id) do update set seq = excluded.seq;

  with used as materialized (
    select (e.ended_at at time zone 'UTC')::date as day, e.child_key_id, coalesce(e.model, '') as model, e.account_id,
           count(*) as requests, coalesce(sum(e.input_tokens), 0)::bigint as input_tokens,
           coalesce(sum(e.output_tokens), 0)::bigint as output_tokens, sum(e.request_cost)::bigint as cost
      from unnest(v_accounts, v_from, v_to) q(id, low, high),
           lateral (select * from ended_hold h
                     where h.account_id = q.id and h.usage_seq > q.low and h.usage_seq <= q.high) e
     group by 1, 2, 3, 4 order by 1, 2, 3),
  written as (
    insert into usage_rollup as r
      (day, child_key_id, model, account_id, requests, input_tokens, output_tokens, cost)
    select u.* from used u
    on conflict (day, child_key_id, model) do update
       set requests = r.requests + excluded.requests, input_tokens = r.input_tokens + excluded.input_tokens,
           output_tokens = r.output_tokens + excluded.output_tokens, cost = r.cost + excluded.cost)
  update period_reset p
     set requests = p.requests + l.requests, cost = p.cost + l.cost
    from (select k.kind, k.period, sum(d.requests)::bigint as requests, sum(d.cost)::bigint as cost
            from (select day, sum(requests) as requests, sum(cost) as cost from used group by day) d,
                 lateral (values ('day', d.day + 1),
                                 ('month', (date_trunc('month', d.day::timestamp) + interval '1 month')::date)) k(kind, period)
           group by 1, 2) l
   where p.kind = l.kind and p.period = l.period and p.finished_at is not null;
end $$;

do $$
declare
  v_setting text;
begin
  foreach v_setting in array array['plan_cache_mode = force_generic_plan', 'enable_seqscan = off',
                                   'enable_hashjoin = off', 'enable_mergejoin = off', 'jit = off'] loop
    execute format('alter function roll_up_usage set %s', v_setting);
  end loop;
end $$;
