-- Ends a batch of holds: gives back what was not used, to the periods in which it was authorized, and writes the
-- usage records.
--
-- p_accounts   distinct and ascending; the items point into them (1-based)
-- p_kinds      1 capture by a backend (a cost above the hold is refused)
--              2 capture by our own gateway (the excess, or all of a hold that has ended, is the house's loss)
--              3 void
--              4 sweep: only when past its deadline or orphaned; captures the checkpoint if there is one
-- decisions: 1 captured, 2 voided, 3 captured before with the same content, 4 voided before,
--            5 ended otherwise, 6 no such hold, 7 cost above the hold, 8 captured before with other content,
--            9 not due (sweep)
-- Answers are comma-separated in the items' order; ended_at in epoch microseconds.
create function end_holds(
  p_accounts uuid[], p_ids uuid[], p_account int[], p_kinds smallint[], p_costs bigint[],
  p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_fingerprints bigint[],
  out decisions text, out costs text, out usage_seqs text, out ended_at text
) language plpgsql as $$
declare
  c_loss constant uuid := '00000000-0000-0000-0000-000000000003';
  c_upstream_cost constant uuid := '00000000-0000-0000-0000-000000000004';
  n int := cardinality(p_ids);
  -- per account
  a_n int := cardinality(p_accounts);
  a_now timestamptz[] := array_fill(null::timestamptz, array[a_n]);
  a_seq bigint[] := array_fill(0::bigint, array[a_n]);
  a_release bigint[] := array_fill(0::bigint, array[a_n]);
  a_accrue bigint[] := array_fill(0::bigint, array[a_n]);
  -- per item
  i_result smallint[] := array_fill(0::smallint, array[n]);
  i_cost bigint[] := p_costs;
  i_left bigint[] := array_fill(0::bigint, array[n]);
  i_held bigint[] := array_fill(0::bigint, array[n]);
  i_seq bigint[] := array_fill(null::bigint, array[n]);
  i_input bigint[] := p_inputs;
  i_output bigint[] := p_outputs;
  i_estimated boolean[] := p_estimated;
  i_at timestamptz[] := array_fill(null::timestamptz, array[n]);
  -- per part of a hold
  w_tid tid[] := '{}';
  w_item int[] := '{}';
  w_part smallint[] := '{}';
  w_child uuid[] := '{}';
  w_amount bigint[] := '{}';
  w_cost bigint[] := '{}';
  w_seq bigint[] := '{}';
  w int := 0;
  r record;
  i int := 1;
  ai int;
  part_cost bigint;
begin
  for r in select a.id, a.usage_seq, greatest(keytoll_clock(), a.last_at + interval '1 microsecond') as at
             from account a where a.id = any (p_accounts) order by a.id for no key update loop
    while p_accounts[i] <> r.id loop i := i + 1; end loop;
    a_now[i] := r.at;
    a_seq[i] := r.usage_seq;
  end loop;

  for r in select q.o, h.ctid as tid, h.part, h.child_key_id, h.amount, h.deadline, h.checkpoint_cost, h.checkpoint_input,
                  h.checkpoint_output, h.gateway_id
             from unnest(p_ids, p_account) with ordinality q(id, a, o),
                  lateral (select o.ctid, o.* from open_hold o
                            where o.account_id = p_accounts[q.a] and o.id = q.id order by o.part) h loop
    i := r.o;
    if r.part = 0 and p_kinds[i] = 4 then
      if r.deadline > a_now[p_account[i]] and not gateway_lapsed(r.gateway_id) then
        i_result[i] := 9;
      elsif r.checkpoint_cost is not null then
        i_result[i] := 1;
        i_cost[i] := r.checkpoint_cost;
        i_input[i] := r.checkpoint_input;
        i_output[i] := r.checkpoint_output;
        i_estimated[i] := true;
      else
        i_result[i] := 2;
      end if;
    elsif r.part = 0 then
      i_result[i] := case p_kinds[i] when 3 then 2 else 1 end;
    end if;
    continue when i_result[i] = 9;
    w := w + 1;
    w_tid[w] := r.tid;
    w_item[w] := i;
    w_part[w] := r.part;
    w_child[w] := r.child_key_id;
    w_amount[w] := r.amount;
    i_held[i] := i_held[i] + r.amount;
  end loop;

  for i in 1..n loop
    ai := p_account[i];
    i_at[i] := a_now[ai];
    if i_result[i] = 0 then
      i_result[i] := 6;
      for r in select e.outcome, e.end_fingerprint, e.request_cost, e.usage_seq, e.ended_at from ended_hold e
                where e.account_id = p_accounts[ai] and e.id = p_ids[i] and e.part = 0 loop
        i_seq[i] := r.usage_seq;
        i_at[i] := r.ended_at;
        i_result[i] := case
          when r.outcome <> 'captured' then case when p_kinds[i] in (3, 4) then 4 else 5 end
          when p_kinds[i] in (3, 4) then 5
          when r.end_fingerprint = p_fingerprints[i] then 3
          else 8 end;
        if i_result[i] = 3 then i_cost[i] := r.request_cost; end if;
      end loop;
      if i_result[i] = 5 and p_kinds[i] = 2 and i_cost[i] > 0 then
        insert into transfer values (new_id(a_now[ai]), c_loss, c_upstream_cost, i_cost[i], 'loss',
          p_accounts[ai] || '/' || p_ids[i], a_now[ai]) on conflict do nothing;
      end if;
    elsif i_result[i] = 1 then
      if i_cost[i] > i_held[i] then
        if p_kinds[i] = 1 then
          i_result[i] := 7;
          continue;
        end if;
        insert into transfer values (new_id(a_now[ai]), c_loss, c_upstream_cost, i_cost[i] - i_held[i], 'loss',
          p_accounts[ai] || '/' || p_ids[i], a_now[ai]) on conflict do nothing;
        i_cost[i] := i_held[i];
      end if;
      a_seq[ai] := a_seq[ai] + 1;
      i_seq[i] := a_seq[ai];
      i_left[i] := i_cost[i];
      a_release[ai] := a_release[ai] + i_held[i];
      a_accrue[ai] := a_accrue[ai] + i_cost[i];
    elsif i_result[i] = 2 then
      i_cost[i] := 0;
      a_release[ai] := a_release[ai] + i_held[i];
    end if;
  end loop;

  for i in 1..w loop
    part_cost := least(w_amount[i], i_left[w_item[i]]);
    i_left[w_item[i]] := i_left[w_item[i]] - part_cost;
    w_cost[i] := part_cost;
    w_seq[i] := case when w_part[i] = 0 and i_result[w_item[i]] = 1 then i_seq[w_item[i]] end;
    if i_result[w_item[i]] not in (1, 2) then w_tid[i] := null; end if;
  end loop;

  insert into ended_hold
    select h.account_id, h.id, h.part, h.child_key_id, h.amount, q.cost,
           (case when i_result[q.item] = 1 then 'captured' when p_kinds[q.item] = 4 then 'swept' else 'voided' end)::hold_outcome,
           h.day, h.month, h.authorized_at, a_now[p_account[q.item]], h.fingerprint, p_fingerprints[q.item],
           h.model, h.price_version, q.seq, case when q.seq is not null then i_cost[q.item] end,
           case when q.seq is not null then i_input[q.item] end,
           case when q.seq is not null then i_output[q.item] end,
           case when q.seq is not null then i_estimated[q.item] end
      from unnest(w_tid, w_item, w_cost, w_seq) q(tid, item, cost, seq), lateral (select * from open_hold o where o.ctid = q.tid) h
     where q.tid is not null;

  update child_key c
     set used_daily = c.used_daily - s.day_back,
         used_monthly = c.used_monthly - s.month_back,
         used_total = c.used_total - s.back,
         held = c.held - s.held,
         requests_total = c.requests_total + s.requests,
         last_used_at = case when s.requests > 0 then greatest(c.last_used_at, s.at) else c.last_used_at end
    from (select h.child_key_id as id, sum(q.amount) as held, sum(q.amount - q.cost) as back,
                 coalesce(sum(q.amount - q.cost) filter (where h.day = k.day), 0) as day_back,
                 coalesce(sum(q.amount - q.cost) filter (where h.month = k.month), 0) as month_back,
                 count(q.seq) as requests, max(a_now[p_account[q.item]]) as at
            from unnest(w_tid, w_item, w_amount, w_cost, w_seq) q(tid, item, amount, cost, seq),
                 lateral (select o.child_key_id, o.day, o.month from open_hold o where o.ctid = q.tid) h,
                 lateral (select x.day, x.month from child_key x where x.id = h.child_key_id) k
           where q.tid is not null group by h.child_key_id) s
   where c.id = s.id;

  delete from open_hold where ctid = any (w_tid);

  update account a set held = a.held - s.release, accrued = a.accrued + s.accrue, usage_seq = s.seq, last_at = s.at
    from unnest(p_accounts, a_release, a_accrue, a_seq, a_now) s(id, release, accrue, seq, at)
   where a.id = s.id and s.release > 0;

  decisions := array_to_string(i_result, ',');
  costs := array_to_string(i_cost, ',', '');
  usage_seqs := array_to_string(i_seq, ',', '');
  ended_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                      from unnest(i_at) with ordinality u(t, o) order by o), ',', '');
end $$;
