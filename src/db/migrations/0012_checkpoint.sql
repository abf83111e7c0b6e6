-- Checkpoints of the proof. A green pass of `keytoll check` notes what it has proved: all that had ended until then is
-- immutable, so the next pass starts from these sums and reads only what came after. What a checkpoint says is never
-- the last word: `keytoll check --full` starts from the first row and ignores it.

-- One green pass. Its digest is of all that it noted, and is printed: kept elsewhere, it shows that nobody
-- has changed the books and the checkpoint together.
create table proof (
  no         bigint generated always as identity primary key,
  taken_at   timestamptz not null,           -- of its snapshot
  whole      boolean not null,               -- from the first row on, not from an earlier checkpoint
  id_floor   uuid not null,                  -- whatever is open, unsettled or yet to come has an id from here on
  rolled_day date not null,                  -- roll-ups of days up to here are compared
  holds      bigint not null,                -- ended, over all passes
  digest     bytea not null
);
create trigger append_only before update or delete on proof
  for each row execute function refuse_change();
create trigger no_truncate before truncate on proof
  for each statement execute function refuse_change();

create table proof_account (
  account_id  uuid primary key,
  through     timestamptz not null,          -- what has ended or was authorized until then is in the sums
  usage_seq   bigint not null,
  settled_seq bigint not null,
  post_no     bigint not null,
  chain       bytea not null,                -- hash of that post
  rolled_seq  bigint not null                -- newest usage record of the days that are compared
);

-- Counters as they were proved, open holds included.
create table proof_child (
  child_key_id uuid primary key,
  account_id   uuid not null,
  day          date not null,
  used_daily   bigint not null,
  month        date not null,
  used_monthly bigint not null,
  used_total   bigint not null,
  requests     bigint not null
);

-- Partitions that were taken off, with the sums of what was in them: a pass from the first row that is left begins
-- with these.
create table detached_partition (
  name        text primary key,
  detached_at timestamptz not null default keytoll_clock(),
  holds       bigint not null,
  proof_no    bigint not null references proof   -- the newest pass that had proved them
);
create table detached_account (
  account_id uuid primary key,
  through    timestamptz not null,           -- newest end
  usage_seq  bigint not null,                -- newest number
  records    bigint not null
);
create table detached_child (
  child_key_id uuid primary key,
  account_id   uuid not null,
  day          date not null,                -- newest
  used_daily   bigint not null,              -- in it
  month        date not null,
  used_monthly bigint not null,
  used_total   bigint not null,
  requests     bigint not null
);

create function time_of_id(p_id uuid) returns timestamptz language sql immutable as $$
  select to_timestamp(('x' || substr(replace(p_id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0)
$$;

-- Until when the proof no longer needs the rows: all with an id before it are proved, settled and summed up in
-- roll-ups. A partition whose upper bound is at or below first_id_of(usage_provable_before()) may be taken off:
--   select record_detached_holds('ended_hold_2025_01');      -- in the transaction of, and before
--   alter table ended_hold detach partition ended_hold_2025_01;
-- Null where nothing was proved yet.
create function usage_provable_before() returns timestamptz language sql stable as $$
  select least(time_of_id(p.id_floor),
               (select max(r.period)::timestamp at time zone 'UTC' - interval '1 day' from period_reset r
                 where r.kind = 'day' and r.finished_at is not null))
    from proof p order by p.no desc limit 1
$$;

-- Sums up a partition that is taken off in the same transaction. Refuses one that the newest checkpoint does
-- not cover, or that was taken off before.
create function record_detached_holds(p_partition regclass) returns bigint language plpgsql as $$
declare
  v_before uuid := first_id_of(usage_provable_before());
  v_needed boolean;
  v_holds bigint;
begin
  execute format('select count(*), coalesce(bool_or(id >= $1), false) from %s', p_partition)
    into v_holds, v_needed using v_before;
  if v_before is null or v_needed then
    raise exception 'partition % is not proved as a whole: run keytoll check first', p_partition;
  end if;
  insert into detached_partition (name, holds, proof_no)
    select p_partition::text, v_holds, max(no) from proof;
  execute format('
    insert into detached_account as d
    select account_id, max(ended_at), coalesce(max(usage_seq), 0), count(usage_seq) from %s group by 1
    on conflict (account_id) do update
       set through = greatest(d.through, excluded.through), usage_seq = greatest(d.usage_seq, excluded.usage_seq),
           records = d.records + excluded.records', p_partition);
  execute format('
    insert into detached_child as d
    select child_key_id, account_id, max(day), sum(cost) filter (where day = newest), max(month),
           sum(cost) filter (where month = newest_month), sum(cost), sum(requests)
      from (select g.*, max(day) over child as newest, max(month) over child as newest_month
              from (select child_key_id, account_id, day, month, sum(cost) as cost, count(usage_seq) as requests
                      from %s group by 1, 2, 3, 4) g
            window child as (partition by child_key_id)) s
     group by 1, 2
    on conflict (child_key_id) do update
       set used_daily = case when d.day <= excluded.day then excluded.used_daily else 0 end
                      + case when d.day >= excluded.day then d.used_daily else 0 end,
           day = greatest(d.day, excluded.day),
           used_monthly = case when d.month <= excluded.month then excluded.used_monthly else 0 end
                        + case when d.month >= excluded.month then d.used_monthly else 0 end,
           month = greatest(d.month, excluded.month),
           used_total = d.used_total + excluded.used_total, requests = d.requests + excluded.requests', p_partition);
  return v_holds;
end $$;
