-- A gateway that is not busy sends its holds one by one, and then most of a batch function's time goes into starting
-- plans that are made for many rows. These two take one item where nothing is unusual about it: a new hold that fits
-- as asked, and the end of an open hold of one part at no more than was held. For anything else they write nothing and
-- hand the item over to the batch functions, which alone know all the rules.
create function authorize_hold(
  p_account uuid, p_child uuid, p_id uuid, p_part smallint, p_amount bigint, p_floor bigint, p_version int,
  p_seconds int, p_fingerprint bigint, p_model text, p_price int, p_own boolean, p_gateway uuid,
  out decisions text, out granted text, out authorized_at text, out daily text, out monthly text, out total text)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  a record;
  c record;
  v_now timestamptz;
  v_day date;
  v_month date;
  v_written int;
begin
  if p_part = 0 and p_amount > 0 then
    select x.status, x.posted - x.accrued - x.held as free, x.last_at into a
      from account x where x.id = p_account for no key update;
    v_now := greatest(keytoll_clock(), a.last_at + interval '1 microsecond');
    v_day := (v_now at time zone 'UTC')::date;
    v_month := date_trunc('month', v_now at time zone 'UTC')::date;

    select k.ctid as tid, k.day, k.month,
           k.limit_daily - case when k.day >= v_day then k.used_daily else 0 end as daily,
           k.limit_monthly - case when k.month >= v_month then k.used_monthly else 0 end as monthly,
           k.limit_total - k.used_total as total
      into c
      from child_key k
      join management_key m on m.id = k.management_key_id
     where k.id = p_child and k.account_id = p_account and k.status = 'active' and m.status = 'active'
       and (k.expires_at is null or k.expires_at > v_now) and (m.expires_at is null or m.expires_at > v_now)
       and (p_version = k.secret_version or p_version = 0)
       and not exists (select 1 from open_hold h where h.account_id = p_account and h.id = p_id)
       and not exists (select 1 from ended_hold e where e.account_id = p_account and e.id = p_id);
    if found and a.status = 'active' and p_amount <= a.free and p_amount <= coalesce(c.daily, p_amount)
      and p_amount <= coalesce(c.monthly, p_amount) and p_amount <= coalesce(c.total, p_amount) then
      update account x set held = x.held + p_amount, last_at = v_now where x.id = p_account;
      update child_key k
         set used_daily = case when k.day >= v_day then k.used_daily else 0 end + p_amount,
             day = greatest(k.day, v_day),
             used_monthly = case when k.month >= v_month then k.used_monthly else 0 end + p_amount,
             month = greatest(k.month, v_month),
             used_total = k.used_total + p_amount,
             held = k.held + p_amount
       where k.ctid = c.tid;
      get diagnostics v_written = row_count;
      if v_written <> 1 then
        raise exception 'a child key was written without the lock of its account' using errcode = 'serialization_failure';
      end if;
      insert into open_hold values (p_account, p_id, 0, p_child, p_amount, v_day, v_month, v_now,
        v_now + make_interval(secs => p_seconds), p_fingerprint, case when p_own then p_gateway end, p_model, p_price);
      authorized_at := (extract(epoch from v_now) * 1000000)::bigint;
      daily := coalesce(c.daily::text, '');
      monthly := coalesce(c.monthly::text, '');
      total := coalesce(c.total::text, '');
      return;
    end if;
  end if;

  select b.* into decisions, granted, authorized_at, daily, monthly, total
    from authorize_holds(array[p_account], array[p_child], array[1], array[p_id],
           case when p_part > 0 then array[p_part] end, array[1], array[p_amount], array[p_floor], array[p_version],
           array[p_seconds], array[p_fingerprint], array[p_model], array[p_price], array[p_own], p_gateway) b;
end $$;

create function end_hold(
  p_account uuid, p_id uuid, p_kind smallint, p_cost bigint, p_input bigint, p_output bigint, p_estimated boolean,
  p_fingerprint bigint,
  out decisions text, out costs text, out usage_seqs text, out ended_at text, out held text)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  a record;
  h record;
  v_now timestamptz;
  v_seq bigint;                  -- null: no usage
  v_written int;
begin
  select x.usage_seq, x.last_at into a from account x where x.id = p_account for no key update;
  -- The last part is the first one: there is no other
  select o.ctid as tid, o.* into h from open_hold o
   where o.account_id = p_account and o.id = p_id order by o.part desc limit 1;
  if h.part = 0 and h.amount > 0 and (p_kind < 3 and p_cost <= h.amount or p_kind = 3 and p_cost = 0) then
    v_now := greatest(keytoll_clock(), a.last_at + interval '1 microsecond');
    if p_kind < 3 then
      v_seq := a.usage_seq + 1;
    end if;
    insert into ended_hold values (p_account, p_id, 0, h.child_key_id, h.amount, p_cost,
      case when p_kind = 3 then 'voided'::hold_outcome else 'captured' end, h.day, h.month, h.authorized_at, v_now,
      h.fingerprint, p_fingerprint, h.model, h.price_version, v_seq, case when p_kind < 3 then p_cost end,
      case when p_kind < 3 then p_input end, case when p_kind < 3 then p_output end,
      case when p_kind < 3 then p_estimated end);
    update child_key k
       set used_daily = k.used_daily - case when k.day = h.day then h.amount - p_cost else 0 end,
           used_monthly = k.used_monthly - case when k.month = h.month then h.amount - p_cost else 0 end,
           used_total = k.used_total - (h.amount - p_cost),
           held = k.held - h.amount,
           requests_total = k.requests_total + case when p_kind < 3 then 1 else 0 end,
           last_used_at = case when p_kind < 3 then greatest(k.last_used_at, v_now) else k.last_used_at end
     where k.id = h.child_key_id;
    get diagnostics v_written = row_count;
    if v_written <> 1 then
      raise exception 'a child key was written without the lock of its account' using errcode = 'serialization_failure';
    end if;
    delete from open_hold o where o.ctid = h.tid;
    update account x
       set held = x.held - h.amount, accrued = x.accrued + p_cost, usage_seq = coalesce(v_seq, x.usage_seq),
           last_at = v_now
     where x.id = p_account;
    usage_seqs := coalesce(v_seq::text, '');
    ended_at := (extract(epoch from v_now) * 1000000)::bigint;
    held := h.amount;
    return;
  end if;

  select b.* into decisions, costs, usage_seqs, ended_at, held
    from end_holds(array[p_account], array[p_id], array[1], array[p_kind], array[p_cost], array[p_input],
           array[p_output], array[p_estimated], array[p_fingerprint]) b;
end $$;
