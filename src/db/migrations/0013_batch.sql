-- The batch functions anew: the same decisions at half the work. What fits, as nearly everything does, takes a short way
-- through each loop; answers name only what is out of the ordinary.
drop function end_and_authorize;
drop function authorize_holds;
drop function end_holds;

-- Opens a batch of holds: one lock, one decision after the other in arrival order, three writes, one flush.
--
-- p_accounts, p_children   distinct, accounts ascending; the items point into them (1-based)
-- p_parts                  null: all are first parts
-- p_amounts, p_floors      what is wanted / the least that will do: where the amount does not fit but the floor
--                          does, half of what is left is granted, at least the floor (0: all or nothing; null: all so)
-- p_versions               version of the secret that authenticated (0: not by a secret)
-- p_own                    whether p_gateway runs the request itself; null: none of them
--
-- decisions: 1 held, 2 held before and still open, 3 held before and ended since, 4 same id, other content,
--            5 no such child, 6 key not active, 7 account suspended, 8 first hold of this request is not open,
--            10 daily limit, 11 monthly limit, 12 total limit, 13 balance;
--            20 to 23: as 10 to 13, but only open holds are in the way
-- Answers are comma-separated: decisions in the items' order, null where all are held; granted likewise, null where all
-- is as asked; authorized_at in the accounts' order, epoch microseconds; remaining amounts in the children's order, as
-- they were before this batch, empty where there is no limit.
create function authorize_holds(
  p_accounts uuid[], p_children uuid[], p_child_account int[],
  p_ids uuid[], p_parts smallint[], p_child int[], p_amounts bigint[], p_floors bigint[], p_versions int[],
  p_seconds int[], p_fingerprints bigint[], p_models text[], p_prices int[], p_own boolean[],
  p_gateway uuid,
  out decisions text, out granted text, out authorized_at text,
  out daily text, out monthly text, out total text
) language plpgsql as $$
declare
  n int := cardinality(p_ids);
  -- per account
  a_ids uuid[];
  a_active boolean[];            -- null: no such account
  a_now timestamptz[];
  a_day date[];
  a_month date[];
  a_free bigint[];               -- available
  a_held bigint[];               -- held before this batch
  a_add bigint[] := array_fill(0::bigint, array[cardinality(p_accounts)]);
  -- per child
  c_status smallint[];           -- 0 may spend, else the decision it gets
  c_version int[];
  c_grace boolean[];
  c_day bigint[];                -- remaining before this batch, null: no limit
  c_month bigint[];
  c_total bigint[];
  c_most bigint[];               -- least of them, negative for who may not spend
  c_held bigint[];
  c_add bigint[] := array_fill(0::bigint, array[cardinality(p_children)]);
  -- per item, where not all are held as asked
  i_result smallint[];
  i_amount bigint[] := p_amounts;
  v_known boolean;
  v_first uuid;    -- of the batch's ids: only the partitions between them are opened
  v_last uuid;
  r record;
  ci int;
  ai int;
  want bigint;
  most bigint;
  spent bigint;
  v_result int;
begin
  select array_agg(t.id), array_agg(t.active), array_agg(t.at), array_agg((t.at at time zone 'UTC')::date),
         array_agg(date_trunc('month', t.at at time zone 'UTC')::date), array_agg(t.free), array_agg(t.held)
    into a_ids, a_active, a_now, a_day, a_month, a_free, a_held
    from (select x.id, x.status = 'active' as active, x.posted - x.accrued - x.held as free, x.held,
                 greatest(keytoll_clock(), x.last_at + interval '1 microsecond') as at
            from (select a.id, a.status, a.posted, a.accrued, a.held, a.last_at
                    from account a where a.id = any (p_accounts) order by a.id for no key update) x) t;
  if a_ids is distinct from p_accounts then    -- where some are not there, the others keep their places
    select array_agg(a_active[p.at] order by p.o), array_agg(a_now[p.at] order by p.o),
           array_agg(a_day[p.at] order by p.o), array_agg(a_month[p.at] order by p.o),
           array_agg(a_free[p.at] order by p.o), array_agg(a_held[p.at] order by p.o)
      into a_active, a_now, a_day, a_month, a_free, a_held
      from (select u.o, array_position(a_ids, u.id) as at from unnest(p_accounts) with ordinality u(id, o)) p;
  end if;

  -- A counter of a later period than the clock's still counts: a clock that steps back opens nothing again.
  select array_agg(k.status order by k.o), array_agg(k.version order by k.o),
         array_agg(k.grace order by k.o), array_agg(k.daily order by k.o), array_agg(k.monthly order by k.o),
         array_agg(k.total order by k.o), array_agg(k.held order by k.o),
         array_agg(case when k.status = 0
                        then greatest(least(k.daily, k.monthly, k.total, 9223372036854775807), -1) else -1 end order by k.o),
         (select q.id from unnest(p_ids) q(id) order by q.id limit 1),
         (select q.id from unnest(p_ids) q(id) order by q.id desc limit 1)
    into c_status, c_version, c_grace, c_day, c_month, c_total, c_held, c_most, v_first, v_last
    from (select u.o,
                 (case
                   when c.id is null or c.account_id <> p_accounts[u.a] or c.status = 'deleted'
                     or a_active[u.a] is null then 5
                   when c.status <> 'active' or m.status <> 'active'
                     or c.expires_at <= a_now[u.a] or m.expires_at <= a_now[u.a] then 6
                   when not a_active[u.a] then 7
                   else 0 end)::smallint as status,
                 coalesce(c.secret_version, 0) as version,
                 coalesce(c.previous_secret_until > a_now[u.a], false) as grace,
                 c.limit_daily - case when c.day >= a_day[u.a] then c.used_daily else 0 end as daily,
                 c.limit_monthly - case when c.month >= a_month[u.a] then c.used_monthly else 0 end as monthly,
                 c.limit_total - c.used_total as total,
                 coalesce(c.held, 0) as held
            from unnest(p_children, p_child_account) with ordinality u(id, a, o)
            left join child_key c on c.id = u.id
            left join management_key m on m.id = c.management_key_id) k;

  -- Nearly always no id is known.
  select exists (select 1 from open_hold h where h.account_id = any (p_accounts) and h.id = any (p_ids))
      or exists (select 1 from ended_hold e where e.account_id = any (p_accounts) and e.id = any (p_ids)
           and e.id between v_first and v_last)
    into v_known;
  if v_known or p_parts is not null then
    i_result := array_fill(1::smallint, array[n]);
    -- Scalar sub-selects stay index probes whatever the statistics say.
    for r in select * from (
               select q.o, p_fingerprints[q.o] as asked,
                      (select array[h.fingerprint, h.amount] from open_hold h
                        where h.account_id = p_accounts[p_child_account[q.child]] and h.id = q.id
                          and h.part = coalesce(q.part, 0)) as open,
                      (select array[e.fingerprint, e.amount] from ended_hold e
                        where e.account_id = p_accounts[p_child_account[q.child]] and e.id = q.id
                          and e.part = coalesce(q.part, 0) and e.id between v_first and v_last) as ended,
                      q.part > 0 and not exists (
                        select 1 from open_hold h
                         where h.account_id = p_accounts[p_child_account[q.child]] and h.id = q.id and h.part = 0
                           and h.child_key_id = p_children[q.child]) as orphan
                 from unnest(p_ids, p_parts, p_child) with ordinality q(id, part, child, o)) f
              where f.open is not null or f.ended is not null or f.orphan loop
      if coalesce(r.open, r.ended) is null then
        i_result[r.o] := 8;
        continue;
      end if;
      i_result[r.o] := case when (coalesce(r.open, r.ended))[1] <> r.asked then 4 when r.open is not null then 2 else 3 end;
      i_amount[r.o] := (coalesce(r.open, r.ended))[2];   -- what was granted then
    end loop;
  end if;

  for i in 1..n loop
    ci := p_child[i];
    ai := p_child_account[ci];
    want := p_amounts[i];
    if c_add[ci] <= c_most[ci] - want and a_add[ai] <= a_free[ai] - want
      and (p_versions[i] = c_version[ci] or p_versions[i] = 0) and (i_result is null or i_result[i] = 1) then
      c_add[ci] := c_add[ci] + want;
      a_add[ai] := a_add[ai] + want;
      continue;
    end if;

    i_result := coalesce(i_result, array_fill(1::smallint, array[n]));
    continue when i_result[i] between 2 and 4;
    if c_status[ci] > 0 then
      i_result[i] := c_status[ci];
      continue;
    elsif p_versions[i] > 0 and p_versions[i] <> c_version[ci]
      and not (p_versions[i] = c_version[ci] - 1 and c_grace[ci]) then
      i_result[i] := 6;
      continue;
    end if;
    continue when i_result[i] = 8;
    spent := c_add[ci];
    most := least(a_free[ai] - a_add[ai], c_day[ci] - spent, c_month[ci] - spent, c_total[ci] - spent);
    if want > most and p_floors[i] > 0 and p_floors[i] <= most then
      want := greatest(p_floors[i], most / 2);
      i_amount[i] := want;
    end if;
    -- what this batch took is open too, so that only what was there before it is compared
    v_result := case
      when want > c_day[ci] - spent then case when want > c_day[ci] + c_held[ci] then 10 else 20 end
      when want > c_month[ci] - spent then case when want > c_month[ci] + c_held[ci] then 11 else 21 end
      when want > c_total[ci] - spent then case when want > c_total[ci] + c_held[ci] then 12 else 22 end
      when want > a_free[ai] - a_add[ai] then case when want > a_free[ai] + a_held[ai] then 13 else 23 end
      else 1 end;
    i_result[i] := v_result;
    if v_result = 1 then
      c_add[ci] := c_add[ci] + want;
      a_add[ai] := a_add[ai] + want;
    end if;
  end loop;

  update account a set held = a.held + s.more, last_at = s.at
    from unnest(p_accounts, a_add, a_now) s(id, more, at) where a.id = s.id and s.more > 0;

  update child_key c
     set used_daily = case when c.day >= a_day[s.a] then c.used_daily else 0 end + s.more,
         day = greatest(c.day, a_day[s.a]),
         used_monthly = case when c.month >= a_month[s.a] then c.used_monthly else 0 end + s.more,
         month = greatest(c.month, a_month[s.a]),
         used_total = c.used_total + s.more,
         held = c.held + s.more
    from unnest(p_children, p_child_account, c_add) s(id, a, more) where c.id = s.id and s.more > 0;

  insert into open_hold
    select p_accounts[p_child_account[q.child]], q.id, coalesce(q.part, 0), p_children[q.child], q.amount,
           a_day[p_child_account[q.child]], a_month[p_child_account[q.child]],
           a_now[p_child_account[q.child]], a_now[p_child_account[q.child]] + make_interval(secs => q.seconds),
           q.fingerprint, case when q.own then p_gateway end, q.model, q.price
      from unnest(p_ids, p_parts, p_child, i_amount, p_seconds, p_fingerprints, p_models, p_prices, p_own, i_result)
           q(id, part, child, amount, seconds, fingerprint, model, price, own, result)
     where q.result = 1 or i_result is null;

  if i_result is not null then
    decisions := array_to_string(i_result, ',');
    granted := array_to_string(i_amount, ',');
  end if;
  authorized_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                           from unnest(a_now) with ordinality u(t, o) order by o), ',', '');
  daily := array_to_string(c_day, ',', '');
  monthly := array_to_string(c_month, ',', '');
  total := array_to_string(c_total, ',', '');
end $$;

-- Ends a batch of holds: gives back what was not used, to the periods in which it was authorized, and writes the
-- usage records.
--
-- p_accounts   distinct and ascending; the items point into them (1-based)
-- p_kinds      1 capture by a backend (a cost above the hold is refused)
--              2 capture by our own gateway (the excess, or all of a hold that has ended, is the house's loss)
--              3 void (its cost is 0)
--              4 sweep: only when past its deadline or orphaned; captures the checkpoint if there is one
-- decisions: 1 captured, 2 voided, 3 captured before with the same content, 4 voided before,
--            5 ended otherwise, 6 no such hold, 7 cost above the hold, 8 captured before with other content,
--            9 not due (sweep)
-- Answers are comma-separated in the items' order; ended_at in epoch microseconds; held is the amount of all parts,
-- empty where there is no such hold. decisions and costs are null where all are captured or voided as asked.
create function end_holds(
  p_accounts uuid[], p_ids uuid[], p_account int[], p_kinds smallint[], p_costs bigint[],
  p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_fingerprints bigint[],
  out decisions text, out costs text, out usage_seqs text, out ended_at text, out held text
) language plpgsql as $$
declare
  c_loss constant uuid := '00000000-0000-0000-0000-000000000003';
  c_upstream_cost constant uuid := '00000000-0000-0000-0000-000000000004';
  n int := cardinality(p_ids);
  -- per account
  a_ids uuid[];
  a_now timestamptz[];
  a_seq bigint[];
  a_release bigint[] := array_fill(0::bigint, array[cardinality(p_accounts)]);
  a_accrue bigint[] := a_release;
  -- per item
  i_result smallint[];           -- null: all as asked, each with one part
  i_cost bigint[] := p_costs;
  i_left bigint[];
  i_held bigint[];
  i_seq bigint[];
  i_input bigint[] := p_inputs;
  i_output bigint[] := p_outputs;
  i_estimated boolean[] := p_estimated;
  i_at timestamptz[];
  -- per part of a hold, by item and part
  w_tid tid[];
  w_item int[];
  w_part smallint[];
  w_amount bigint[];
  w_cost bigint[];
  w_seq bigint[];
  v_plain boolean;
  r record;
  i int;
  ai int;
  part_cost bigint;
begin
  select array_agg(t.id), array_agg(t.usage_seq),
         array_agg(greatest(keytoll_clock(), t.last_at + interval '1 microsecond'))
    into a_ids, a_seq, a_now
    from (select a.id, a.usage_seq, a.last_at
            from account a where a.id = any (p_accounts) order by a.id for no key update) t;
  if a_ids is distinct from p_accounts then    -- where some are not there, the others keep their places
    select array_agg(a_seq[p.at] order by p.o), array_agg(a_now[p.at] order by p.o) into a_seq, a_now
      from (select u.o, array_position(a_ids, u.id) as at from unnest(p_accounts) with ordinality u(id, o)) p;
  end if;

  select array_agg(s.tid order by s.o, s.part), array_agg(s.o order by s.o, s.part), array_agg(s.part order by s.o, s.part),
         array_agg(s.amount order by s.o, s.part), bool_and(s.part = 0 and (s.kind < 3 and s.cost <= s.amount or s.kind = 3 and s.cost = 0))
    into w_tid, w_item, w_part, w_amount, v_plain
    from (select q.o, h.ctid as tid, h.part, h.amount, q.kind, q.cost
            from unnest(p_ids, p_account, p_kinds, p_costs) with ordinality q(id, a, kind, cost, o),
                 lateral (select o.ctid, o.part, o.amount from open_hold o where o.account_id = p_accounts[q.a] and o.id = q.id) h) s;

  if v_plain and cardinality(w_item) = n then
    i_seq := p_costs;
    for i in 1..n loop
      ai := p_account[i];
      a_release[ai] := a_release[ai] + w_amount[i];
      if p_kinds[i] < 3 then
        a_seq[ai] := a_seq[ai] + 1;
        a_accrue[ai] := a_accrue[ai] + p_costs[i];
        i_seq[i] := a_seq[ai];
      else
        i_seq[i] := null;
      end if;
    end loop;
    i_held := w_amount;
    w_cost := p_costs;
    w_seq := i_seq;
  else
    i_result := array_fill(0::smallint, array[n]);
    i_held := array_fill(null::bigint, array[n]);
    i_left := array_fill(0::bigint, array[n]);
    i_seq := array_fill(null::bigint, array[n]);
    i_at := array_fill(null::timestamptz, array[n]);
    for r in select u.w, u.item, h.part, h.amount, h.deadline, h.checkpoint_cost, h.checkpoint_input, h.checkpoint_output, h.gateway_id
               from unnest(w_tid, w_item) with ordinality u(tid, item, w), lateral (select * from open_hold o where o.ctid = u.tid) h
              order by u.w loop
      i := r.item;
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
      if i_result[i] = 9 then
        w_tid[r.w] := null;
      else
        i_held[i] := coalesce(i_held[i], 0) + r.amount;
      end if;
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
          if i_result[i] = 3 then
            i_cost[i] := r.request_cost;
            i_held[i] := (select sum(e.amount) from ended_hold e
                           where e.account_id = p_accounts[ai] and e.id = p_ids[i]);
          end if;
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

    for w in 1..coalesce(cardinality(w_tid), 0) loop
      i := w_item[w];
      part_cost := least(w_amount[w], i_left[i]);
      i_left[i] := i_left[i] - part_cost;
      w_cost[w] := part_cost;
      w_seq[w] := case when w_part[w] = 0 and i_result[i] = 1 then i_seq[i] end;
      if i_result[i] not in (1, 2) then w_tid[w] := null; end if;
    end loop;
  end if;

  insert into ended_hold
    select h.account_id, h.id, h.part, h.child_key_id, h.amount, q.cost,
           (case when p_kinds[q.item] = 3 then 'voided' when p_kinds[q.item] = 4 and i_result[q.item] = 2 then 'swept'
                 else 'captured' end)::hold_outcome,
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
                 sum(case when h.day = k.day then q.amount - q.cost else 0 end) as day_back,
                 sum(case when h.month = k.month then q.amount - q.cost else 0 end) as month_back,
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

  if i_result is not null then
    decisions := array_to_string(i_result, ',');
    costs := array_to_string(i_cost, ',', '');
  else
    i_at := array(select a_now[u.a] from unnest(p_account) with ordinality u(a, o) order by u.o);
  end if;
  usage_seqs := array_to_string(i_seq, ',', '');
  held := array_to_string(i_held, ',', '');
  ended_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                      from unnest(i_at) with ordinality u(t, o) order by o), ',', '');
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
  out end_decisions text, out costs text, out usage_seqs text, out ended_at text, out held text,
  out decisions text, out granted text, out authorized_at text, out daily text, out monthly text, out total text
) language plpgsql as $$
declare
  v_ended record;
  v_opened record;
begin
  perform 1 from account a where a.id = any (p_all_accounts) order by a.id for no key update;
  v_ended := end_holds(p_end_accounts, p_end_ids, p_end_account, p_kinds, p_costs, p_inputs, p_outputs,
                 p_estimated, p_end_fingerprints);
  v_opened := authorize_holds(p_accounts, p_children, p_child_account, p_ids, p_parts, p_child,
    p_amounts, p_floors, p_versions, p_seconds, p_fingerprints, p_models, p_prices, p_own, p_gateway);
  end_decisions := v_ended.decisions;
  costs := v_ended.costs;
  usage_seqs := v_ended.usage_seqs;
  ended_at := v_ended.ended_at;
  held := v_ended.held;
  decisions := v_opened.decisions;
  granted := v_opened.granted;
  authorized_at := v_opened.authorized_at;
  daily := v_opened.daily;
  monthly := v_opened.monthly;
  total := v_opened.total;
end $$;

-- The planner settings that keep the batch functions fast whatever the statistics say: plans cached while the tables
-- were empty are otherwise 7 to 25 times slower.
do $$
declare
  v_function regprocedure;
  v_setting text;
begin
  for v_function in select p.oid::regprocedure from pg_proc p
                     where p.proname in ('authorize_holds', 'end_holds', 'end_and_authorize') loop
    foreach v_setting in array array['plan_cache_mode = force_generic_plan', 'enable_seqscan = off',
                                     'enable_hashjoin = off', 'enable_mergejoin = off', 'jit = off'] loop
      execute format('alter function %s set %s', v_function, v_setting);
    end loop;
  end loop;
end $$;
