-- When somebody last looked for holds to sweep, and when they could again after nobody could: an outage that Postgres
-- itself did not notice, for it was only out of reach.
create table sweep_pulse (
  one        boolean primary key default true,   -- there is one row
  seen_at    timestamptz not null,
  resumed_at timestamptz not null
);

-- Ends up to p_limit holds that are past their deadline or whose gateway is gone, each as end_holds decides.
-- Waits p_grace after a start of Postgres, and as long after nobody could sweep for 45 s, so that gateways can first
-- deliver what they could not write. A gateway that lives gets 30 s more than the deadline for the same reason.
create or replace function sweep_holds(p_limit int, p_grace interval default interval '45 seconds',
  out captured int, out voided int) language plpgsql as $$
declare
  v_clock timestamptz := keytoll_clock();
  v_resumed timestamptz;
  v_lapsed uuid[];
  v_live uuid[];
  v_holders uuid[];
  v_accounts uuid[];
  v_ids uuid[];
  v_nothing bigint[];
  v_decisions text;
begin
  captured := 0;
  voided := 0;
  if pg_postmaster_start_time() + p_grace > clock_timestamp() then return; end if;
  perform 1 from sweep_pulse where seen_at > clock_timestamp() - interval '5 seconds';
  if not found then
    insert into sweep_pulse as p values (true, clock_timestamp(), '-infinity')
      on conflict (one) do update
      set resumed_at = case when p.seen_at < clock_timestamp() - interval '45 seconds' then clock_timestamp()
                            else p.resumed_at end,
          seen_at = clock_timestamp();
  end if;
  select p.resumed_at into v_resumed from sweep_pulse p;
  if v_resumed + p_grace > clock_timestamp() then return; end if;

  select array_agg(g.id) filter (where g.seen_at <= v_clock - interval '60 seconds'),
         coalesce(array_agg(g.id) filter (where g.seen_at > v_clock - interval '60 seconds'), '{}')
    into v_lapsed, v_live from gateway g;
  select array_agg(d.account_id), array_agg(d.id) into v_holders, v_ids from (
    (select h.account_id, h.id from open_hold h
      where h.part = 0 and h.deadline <= v_clock
        and (h.gateway_id is null or h.deadline <= v_clock - interval '30 seconds' or h.gateway_id <> all (v_live))
      order by h.deadline limit p_limit)
    union
    (select h.account_id, h.id from open_hold h
      where h.part = 0 and h.gateway_id = any (v_lapsed) and v_lapsed is not null limit p_limit)) d;
  if v_ids is not null then
    select array_agg(distinct a order by a) into v_accounts from unnest(v_holders) a;
    v_nothing := array_fill(0::bigint, array[cardinality(v_ids)]);
    select e.decisions into v_decisions
      from end_holds(v_accounts, v_ids,
                     array(select array_position(v_accounts, h.a) from unnest(v_holders) with ordinality h(a, o) order by h.o),
                     array_fill(4::smallint, array[cardinality(v_ids)]), v_nothing, v_nothing, v_nothing,
                     array_fill(true, array[cardinality(v_ids)]), v_nothing) e;
    select count(*) filter (where d = '1'), count(*) filter (where d = '2') into captured, voided
      from unnest(string_to_array(v_decisions, ',')) d;
  end if;
  delete from gateway g
   where g.id = any (v_lapsed) and not exists (select 1 from open_hold h where h.gateway_id = g.id);
end $$;

-- Puts what a request of our own gateway cost above what its hold was captured at by others (a sweep, at its
-- checkpoint) on record as the house's loss; again changes nothing. Answers that part of the cost.
create function late_capture(p_account uuid, p_hold uuid, p_cost bigint) returns bigint language plpgsql as $$
declare
  c_loss constant uuid := '00000000-0000-0000-0000-000000000003';
  c_upstream_cost constant uuid := '00000000-0000-0000-0000-000000000004';
  v_at timestamptz;
  v_missed bigint;
begin
  select l.at into v_at from lock_accounts(array[p_account]) l;
  select p_cost - e.request_cost into v_missed from ended_hold e
   where e.account_id = p_account and e.id = p_hold and e.part = 0 and e.usage_seq is not null;
  if coalesce(v_missed, 0) <= 0 then return 0; end if;
  insert into transfer values (new_id(v_at), c_loss, c_upstream_cost, v_missed, 'loss',
    p_account || '/' || p_hold || '/late', v_at) on conflict do nothing;
  return v_missed;
end $$;
