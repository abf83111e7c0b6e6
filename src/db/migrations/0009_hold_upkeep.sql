-- Locks accounts, ascending, and tells each one's time: what every writer of an account or its keys does first.
-- The time is a whole millisecond after all that happened before: it survives a client that knows no finer ones.
create function lock_accounts(p_accounts uuid[])
  returns table (id uuid, at timestamptz, status text, posted bigint, held bigint, accrued bigint) language sql as $$
  select a.id, date_trunc('milliseconds', greatest(keytoll_clock(), a.last_at)) + interval '1 millisecond', a.status, a.posted, a.held, a.accrued
    from account a where a.id = any (p_accounts) order by a.id for no key update
$$;

-- True when a gateway has not renewed its lease for a minute: nobody will end its holds.
create function gateway_lapsed(p_gateway uuid) returns boolean language sql stable as $$
  select p_gateway is not null and not exists (
    select 1 from gateway g where g.id = p_gateway and g.seen_at > keytoll_clock() - interval '60 seconds')
$$;

-- Moves deadlines of open holds to now + seconds (never back) and notes what a stream has produced so far
-- (null: leave as it is). Answers the new deadlines in the items' order, epoch microseconds, empty: not open.
create function extend_holds(
  p_accounts uuid[], p_ids uuid[], p_account int[], p_seconds int[],
  p_costs bigint[], p_inputs bigint[], p_outputs bigint[]
) returns text language plpgsql as $$
declare
  v_answer text;
begin
  perform 1 from account a where a.id = any (p_accounts) order by a.id for no key update;
  with moved as (
    update open_hold h
       set deadline = greatest(h.deadline, keytoll_clock() + make_interval(secs => q.seconds)),
           checkpoint_cost = coalesce(q.cost, h.checkpoint_cost),
           checkpoint_input = coalesce(q.input, h.checkpoint_input),
           checkpoint_output = coalesce(q.output, h.checkpoint_output)
      from unnest(p_ids, p_account, p_seconds, p_costs, p_inputs, p_outputs) with ordinality
           q(id, a, seconds, cost, input, output, o)
     where h.account_id = p_accounts[q.a] and h.id = q.id
    returning q.o, h.part, h.deadline)
  select string_agg(coalesce((extract(epoch from m.deadline) * 1000000)::bigint::text, ''), ',' order by o.o)
    into v_answer
    from generate_subscripts(p_ids, 1) o(o) left join moved m on m.o = o.o and m.part = 0;
  return v_answer;
end $$;

-- Ends up to p_limit holds that are past their deadline or whose gateway is gone, each as end_holds decides.
-- Waits p_grace after a start of Postgres, so that gateways can first deliver what they could not write.
create function sweep_holds(p_limit int, p_grace interval default interval '45 seconds',
  out captured int, out voided int) language plpgsql as $$
declare
  v_clock timestamptz := keytoll_clock();
  v_lapsed uuid[];
  v_holders uuid[];
  v_accounts uuid[];
  v_ids uuid[];
  v_nothing bigint[];
  v_decisions text;
begin
  captured := 0;
  voided := 0;
  if pg_postmaster_start_time() + p_grace > clock_timestamp() then return; end if;
  select array_agg(g.id) into v_lapsed from gateway g where g.seen_at <= v_clock - interval '60 seconds';
  select array_agg(d.account_id), array_agg(d.id) into v_holders, v_ids from (
    (select h.account_id, h.id from open_hold h
      where h.part = 0 and h.deadline <= v_clock order by h.deadline limit p_limit)
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

-- Ends a batch of holds and authorizes another, in one transaction: half the flushes, and what is given back is there for
-- those who ask. All accounts of both are locked first, ascending, so that two such batches can never wait for each other.
create function end_and_authorize(
  p_all_accounts uuid[],
  p_end_accounts uuid[], p_end_ids uuid[], p_end_account int[], p_kinds smallint[], p_costs bigint[],
  p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_end_fingerprints bigint[],
  p_accounts uuid[], p_children uuid[], p_child_account int[],
  p_ids uuid[], p_parts smallint[], p_child int[], p_amounts bigint[], p_floors bigint[], p_versions int[],
  p_seconds int[], p_fingerprints bigint[], p_models text[], p_prices int[], p_own boolean[], p_gateway uuid,
  out end_decisions text, out costs text, out usage_seqs text, out ended_at text,
  out decisions text, out granted text, out authorized_at text, out daily text, out monthly text, out total text
) language plpgsql as $$
begin
  perform 1 from account a where a.id = any (p_all_accounts) order by a.id for no key update;
  select e.decisions, e.costs, e.usage_seqs, e.ended_at into end_decisions, costs, usage_seqs, ended_at
    from end_holds(p_end_accounts, p_end_ids, p_end_account, p_kinds, p_costs, p_inputs, p_outputs,
                   p_estimated, p_end_fingerprints) e;
  select a.decisions, a.granted, a.authorized_at, a.daily, a.monthly, a.total
    into decisions, granted, authorized_at, daily, monthly, total
    from authorize_holds(p_accounts, p_children, p_child_account, p_ids, p_parts, p_child,
      p_amounts, p_floors, p_versions, p_seconds, p_fingerprints, p_models, p_prices, p_own, p_gateway) a;
end $$;

-- The planner settings that keep the batch functions fast whatever the statistics say: plans cached while the tables
-- were empty are otherwise 7 to 25 times slower.
do $$
declare
  v_function regprocedure;
  v_setting text;
begin
  for v_function in select p.oid::regprocedure from pg_proc p
                     where p.proname in ('authorize_holds', 'end_holds', 'end_and_authorize', 'extend_holds') loop
    foreach v_setting in array array['plan_cache_mode = force_generic_plan', 'enable_seqscan = off',
                                     'enable_hashjoin = off', 'enable_mergejoin = off', 'jit = off'] loop
      execute format('alter function %s set %s', v_function, v_setting);
    end loop;
  end loop;
end $$;
