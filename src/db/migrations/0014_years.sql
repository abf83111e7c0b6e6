-- Makes the partition of one month, unless it is there. Made apart and then attached: `partition of` would lock
-- out everybody else for as long as one long reader (a check, a dump) keeps the table, and all captures with them.
create function make_hold_partition(p_month timestamp) returns boolean language plpgsql
  security definer set search_path = public, pg_temp as $$
declare
  v_name text := 'ended_hold_' || to_char(p_month, 'YYYY_MM');
begin
  if exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
              where i.inhparent = 'ended_hold'::regclass and c.relname = v_name) then
    return false;
  end if;
  execute format('create table %I (like ended_hold)', v_name);
  execute format('alter table ended_hold attach partition %I for values from (%L) to (%L)', v_name,
    first_id_of(p_month at time zone 'UTC'),
    first_id_of((p_month + interval '1 month') at time zone 'UTC'));
  return true;
end $$;

-- Makes the monthly partitions that are missing: from the month before now, or before the oldest open hold (nobody may
-- have made any for long, and that hold still ends in the month of its id), to p_ahead months from now.
create or replace function ensure_hold_partitions(p_ahead int) returns int language plpgsql
  security definer set search_path = public, pg_temp set lock_timeout = '5s' as $$
declare
  v_now timestamp := date_trunc('month', keytoll_clock() at time zone 'UTC');
  v_first timestamp;
  v_made int := 0;
begin
  perform pg_advisory_xact_lock(hashtext('ensure_hold_partitions'));
  select least(v_now, date_trunc('month', time_of_id(h.id) at time zone 'UTC')) - interval '1 month' into v_first
    from (select (select o.id from open_hold o order by o.id limit 1) as id) h;
  for n in 0..(extract(year from age(v_now, v_first)) * 12 + extract(month from age(v_now, v_first)))::int + p_ahead loop
    if make_hold_partition(v_first + make_interval(months => n)) then v_made := v_made + 1; end if;
  end loop;
  return v_made;
end $$;

-- The months of ended holds that are over by then, oldest first.
create function hold_partitions(p_until timestamptz)
  returns table (name text, begins timestamptz, ends timestamptz) language sql stable as $$
  select p.name, p.begins, p.begins + interval '1 month'
    from (select c.relname::text as name,
                 to_date(right(c.relname, 7), 'YYYY_MM')::timestamp at time zone 'UTC' as begins
            from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent = 'ended_hold'::regclass) p
   where p.begins + interval '1 month' <= p_until
   order by p.begins
$$;

-- Why a month cannot be taken off yet, in words; null where it can.
create function hold_partition_needed(p_name text) returns text language plpgsql stable as $$
declare
  v_ends timestamptz;
  v_newest timestamptz;
  v_account uuid;
  v_hold uuid;
begin
  select p.ends into v_ends from hold_partitions('infinity') p where p.name = p_name;
  if v_ends is null then return 'there is no such month'; end if;
  if v_ends > keytoll_clock() - interval '48 hours' then
    return 'ids of this month may still come in: wait until 48 hours after its end';
  end if;
  select h.id into v_hold from open_hold h where h.id < first_id_of(v_ends) limit 1;
  if v_hold is not null then return format('hold %s of it is still open', v_hold); end if;
  execute format('
    select u.account_id from (select account_id, max(usage_seq) as newest from %I group by 1) u
      join account a on a.id = u.account_id where a.settled_seq < u.newest limit 1', p_name) into v_account;
  if v_account is not null then return format('usage of account %s in it is not settled', v_account); end if;
  execute format('select max(ended_at) from %I where usage_seq is not null', p_name) into v_newest;
  if v_newest is not null and not exists (
       select from period_reset r where r.kind = 'month' and r.finished_at is not null
          and r.period > (v_newest at time zone 'UTC')::date) then
    return format('the month of its newest end, %s, is not summed up yet', to_char(v_newest at time zone 'UTC', 'YYYY-MM'));
  end if;
  if usage_provable_before() is null or usage_provable_before() < v_ends then
    return 'the proof still needs its rows: run keytoll check first';
  end if;
  return null;
end $$;

-- Takes a month off, with its sums for the proof, into the schema "archive": to be dumped and dropped, or kept.
-- One transaction, so that each check sees either the rows or their sums. Only the last step has to be alone with the
-- table, and it never waits for that longer than 200 ms, because all others would wait behind it: it tries again for
-- p_patience, then fails and has changed nothing. Answers how many holds were in it.
create function archive_hold_partition(p_name text, p_patience interval) returns bigint language plpgsql as $$
declare
  v_until timestamptz := clock_timestamp() + p_patience;
  v_reason text := hold_partition_needed(p_name);
  v_holds bigint;
begin
  if v_reason is not null then raise exception '%', v_reason using errcode = 'object_in_use'; end if;
  execute format('lock table only %I in share mode', p_name);
  v_holds := record_detached_holds(p_name::regclass);
  create schema if not exists archive;
  perform set_config('lock_timeout', '200ms', true);
  loop
    begin
      execute format('alter table ended_hold detach partition %I', p_name);
      exit;
    exception when lock_not_available then
      if clock_timestamp() > v_until then raise; end if;
    end;
    perform pg_sleep(1);
  end loop;
  execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', p_name);
  execute format('alter table %I set schema archive', p_name);
  return v_holds;
end $$;
revoke execute on function make_hold_partition, archive_hold_partition from public;

-- Child keys in three quarters of each page instead of three tenths: a million take 313 MB instead of 710, and a
-- request of any one of them finds its page cached, and logged since the last checkpoint, more often. All updates stay
-- HOT: old versions are pruned as soon as their page is full. Holds for as long as a table is written anew or grows.
alter table child_key set (fillfactor = 75);

-- Number of an account's last usage record before an instant; 0 where there is none. Numbers and times grow together, so
-- it is found by halving: a roll-up reads its own day only, however much came after. What was taken off is older.
create function last_usage_before(p_account uuid, p_at timestamptz) returns bigint language plpgsql stable
  set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  v_low bigint := 0;
  v_high bigint;
  v_middle bigint;
  v_at timestamptz;
begin
  select a.usage_seq into v_high from account a where a.id = p_account;
  while v_low < v_high loop
    v_middle := (v_low + v_high + 1) / 2;
    select e.ended_at into v_at from ended_hold e where e.account_id = p_account and e.usage_seq = v_middle;
    if found and v_at >= p_at then v_high := v_middle - 1; else v_low := v_middle; end if;
  end loop;
  return v_low;
end $$;
