-- Opens a batch of holds: one lock, one decision after the other in arrival order, three writes, one flush.
--
-- p_accounts, p_children   distinct and ascending; the items point into them (1-based)
-- p_amounts, p_floors      what is wanted / the least that will do: where the amount does not fit but the floor
--                          does, half of what is left is granted, at least the floor (0: all or nothing)
-- p_versions               version of the secret that authenticated (0: not by a secret)
--
-- decisions: 1 held, 2 held before and still open, 3 held before and ended since, 4 same id, other content,
--            5 no such child, 6 key not active, 7 account suspended, 8 first hold of this request is not open,
--            10 daily limit, 11 monthly limit, 12 total limit, 13 balance;
--            20 to 23: as 10 to 13, but only open holds are in the way
-- Answers are comma-separated in the items' order (authorized_at: in the accounts' order, epoch microseconds),
-- remaining amounts are net of this batch so far, empty where there is no limit.
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
  a_n int := cardinality(p_accounts);
  a_status smallint[] := array_fill(0::smallint, array[a_n]);  -- 0 unknown, 1 active, 2 suspended
  a_now timestamptz[] := array_fill(null::timestamptz, array[a_n]);
  a_day date[] := array_fill(null::date, array[a_n]);
  a_month date[] := array_fill(null::date, array[a_n]);
  a_free bigint[] := array_fill(0::bigint, array[a_n]);        -- available
  a_held bigint[] := array_fill(0::bigint, array[a_n]);        -- held before this batch
  a_add bigint[] := array_fill(0::bigint, array[a_n]);
  -- per child
  c_status smallint[];           -- 0 may spend, else the decision it gets
  c_version int[];
  c_grace boolean[];
  c_day bigint[];                -- remaining, null: no limit
  c_month bigint[];
  c_total bigint[];
  c_held bigint[];
  c_add bigint[] := array_fill(0::bigint, array[cardinality(p_children)]);
  -- per item
  i_result smallint[] := array_fill(0::smallint, array[n]);
  i_amount bigint[] := p_amounts;
  i_day bigint[] := array_fill(null::bigint, array[n]);
  i_month bigint[] := array_fill(null::bigint, array[n]);
  i_total bigint[] := array_fill(null::bigint, array[n]);
  r record;
  i int := 1;
  ci int;
  ai int;
  want bigint;
  most bigint;
  first_ended boolean;
  v_first uuid;    -- of the batch's ids: only the partitions between them are opened
  v_last uuid;
  v_id uuid;
begin
  for r in select a.id, a.status, a.posted, a.accrued, a.held,
                  greatest(keytoll_clock(), a.last_at + interval '1 microsecond') as at
             from account a where a.id = any (p_accounts) order by a.id for no key update loop
    while p_accounts[i] <> r.id loop i := i + 1; end loop;
    a_status[i] := case r.status when 'active' then 1 else 2 end;
    a_now[i] := r.at;
    a_day[i] := (r.at at time zone 'UTC')::date;
    a_month[i] := date_trunc('month', r.at at time zone 'UTC')::date;
    a_free[i] := r.posted - r.accrued - r.held;
    a_held[i] := r.held;
  end loop;

  -- A counter of a later period than the clock's still counts: a clock that steps back opens nothing again.
  select array_agg((case
           when c.id is null or c.account_id <> p_accounts[u.a] or c.status = 'deleted' or a_status[u.a] = 0 then 5
           when c.status <> 'active' or m.status <> 'active'
             or c.expires_at <= a_now[u.a] or m.expires_at <= a_now[u.a] then 6
           when a_status[u.a] = 2 then 7
           else 0 end)::smallint order by u.o),
         array_agg(coalesce(c.secret_version, 0) order by u.o),
         array_agg(coalesce(c.previous_secret_until > a_now[u.a], false) order by u.o),
         array_agg(c.limit_daily - case when c.day >= a_day[u.a] then c.used_daily else 0 end order by u.o),
         array_agg(c.limit_monthly - case when c.month >= a_month[u.a] then c.used_monthly else 0 end order by u.o),
         array_agg(c.limit_total - c.used_total order by u.o),
         array_agg(coalesce(c.held, 0) order by u.o)
    into c_status, c_version, c_grace, c_day, c_month, c_total, c_held
    from unnest(p_children, p_child_account) with ordinality u(id, a, o)
    left join child_key c on c.id = u.id
    left join management_key m on m.id = c.management_key_id;

  foreach v_id in array p_ids loop
    v_first := least(v_first, v_id);
    v_last := greatest(v_last, v_id);
  end loop;

  -- Scalar sub-selects stay index probes whatever the statistics say.
  for r in select * from (
             select q.o, p_fingerprints[q.o] as asked,
                    (select array[h.fingerprint, h.amount] from open_hold h
                      where h.account_id = p_accounts[p_child_account[q.child]] and h.id = q.id and h.part = q.part) as open,
                    (select array[e.fingerprint, e.amount] from ended_hold e
                      where e.account_id = p_accounts[p_child_account[q.child]] and e.id = q.id and e.part = q.part
                        and e.id between v_first and v_last) as ended
               from unnest(p_ids, p_parts, p_child) with ordinality q(id, part, child, o)) f
            where f.open is not null or f.ended is not null loop
    i_result[r.o] := case when (coalesce(r.open, r.ended))[1] <> r.asked then 4 when r.open is not null then 2 else 3 end;
    i_amount[r.o] := (coalesce(r.open, r.ended))[2];   -- what was granted then
  end loop;

  for i in 1..n loop
    ci := p_child[i];
    ai := p_child_account[ci];
    want := i_amount[i];
    first_ended := false;
    if p_parts[i] > 0 then    -- apart, because an expression with a sub-select costs ten times a plain one
      first_ended := not exists (
        select 1 from open_hold h
         where h.account_id = p_accounts[ai] and h.id = p_ids[i] and h.part = 0 and h.child_key_id = p_children[ci]);
    end if;
    if i_result[i] = 0 then
      if c_status[ci] > 0 then
        i_result[i] := c_status[ci];
      elsif p_versions[i] > 0 and p_versions[i] <> c_version[ci]
        and not (p_versions[i] = c_version[ci] - 1 and c_grace[ci]) then
        i_result[i] := 6;
      elsif first_ended then
        i_result[i] := 8;
      else
        if p_floors[i] > 0 then
          most := least(a_free[ai], c_day[ci], c_month[ci], c_total[ci]);
          if want > most and p_floors[i] <= most then
            want := greatest(p_floors[i], most / 2);
            i_amount[i] := want;
          end if;
        end if;
        if want > c_day[ci] then
          i_result[i] := case when want > c_day[ci] + c_held[ci] then 10 else 20 end;
        elsif want > c_month[ci] then
          i_result[i] := case when want > c_month[ci] + c_held[ci] then 11 else 21 end;
        elsif want > c_total[ci] then
          i_result[i] := case when want > c_total[ci] + c_held[ci] then 12 else 22 end;
        elsif want > a_free[ai] then
          i_result[i] := case when want > a_free[ai] + a_held[ai] then 13 else 23 end;
        else
          i_result[i] := 1;
          a_free[ai] := a_free[ai] - want;
          a_held[ai] := a_held[ai] + want;
          a_add[ai] := a_add[ai] + want;
          c_day[ci] := c_day[ci] - want;
          c_month[ci] := c_month[ci] - want;
          c_total[ci] := c_total[ci] - want;
          c_held[ci] := c_held[ci] + want;
          c_add[ci] := c_add[ci] + want;
        end if;
      end if;
    end if;
    i_day[i] := c_day[ci];
    i_month[i] := c_month[ci];
    i_total[i] := c_total[ci];
  end loop;

  update account a set held = a.held + s.more, last_at = s.at
    from unnest(p_accounts, a_add, a_now) s(id, more, at) where a.id = s.id and s.more > 0;

  update child_key c
     set used_daily = case when c.day >= s.day then c.used_daily else 0 end + s.more,
         day = greatest(c.day, s.day),
         used_monthly = case when c.month >= s.month then c.used_monthly else 0 end + s.more,
         month = greatest(c.month, s.month),
         used_total = c.used_total + s.more,
         held = c.held + s.more
    from (select u.id, u.more, a_day[u.a] as day, a_month[u.a] as month
            from unnest(p_children, p_child_account, c_add) u(id, a, more) where u.more > 0) s
   where c.id = s.id;

  insert into open_hold
    select p_accounts[p_child_account[q.child]], q.id, q.part, p_children[q.child], q.amount,
           a_day[p_child_account[q.child]], a_month[p_child_account[q.child]],
           a_now[p_child_account[q.child]], a_now[p_child_account[q.child]] + make_interval(secs => q.seconds),
           q.fingerprint, case when q.own then p_gateway end, q.model, q.price
      from unnest(p_ids, p_parts, p_child, i_amount, p_seconds, p_fingerprints, p_models, p_prices, p_own, i_result)
           q(id, part, child, amount, seconds, fingerprint, model, price, own, result)
     where q.result = 1;

  decisions := array_to_string(i_result, ',');
  granted := array_to_string(i_amount, ',');
  authorized_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                           from unnest(a_now) with ordinality u(t, o) order by o), ',', '');
  daily := array_to_string(i_day, ',', '');
  monthly := array_to_string(i_month, ',', '');
  total := array_to_string(i_total, ',', '');
end $$;
