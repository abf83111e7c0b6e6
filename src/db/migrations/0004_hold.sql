-- Amounts reserved for requests under way. part 0 is the request's first hold, 1, 2, ... its extensions.
-- Small and hot: rows live for seconds.
create table open_hold (
  account_id        uuid not null,
  id                uuid not null,            -- UUIDv7
  part              smallint not null,
  child_key_id      uuid not null,
  amount            bigint not null,
  day               date not null,
  month             date not null,
  authorized_at     timestamptz not null,
  deadline          timestamptz not null,
  fingerprint       bigint not null,          -- of what was asked, to tell a repeat from a conflict
  gateway_id        uuid,                     -- whose request it is; null for a backend's own hold
  model             text,
  price_version     int,
  -- what a stream has produced so far: captured should its gateway die
  checkpoint_cost   bigint,
  checkpoint_input  bigint,
  checkpoint_output bigint,
  primary key (account_id, id, part)
) with (
  fillfactor = 90,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0
);
create index open_hold_deadline on open_hold (deadline);

-- Holds that ended, each exactly once. The first part of a captured request is its usage record
-- (usage_seq is not null): numbered without gaps per account, never changed.
create type hold_outcome as enum ('captured', 'voided', 'swept');
create table ended_hold (
  account_id      uuid not null,
  id              uuid not null,
  part            smallint not null,
  child_key_id    uuid not null,
  amount          bigint not null,
  cost            bigint not null,            -- captured of this part
  outcome         hold_outcome not null,
  day             date not null,
  month           date not null,
  authorized_at   timestamptz not null,
  ended_at        timestamptz not null,
  fingerprint     bigint not null,
  end_fingerprint bigint not null,
  model           text,
  price_version   int,
  usage_seq       bigint,
  request_cost    bigint,                     -- captured of all parts
  input_tokens    bigint,
  output_tokens   bigint,
  estimated       boolean,                    -- counted by us, not reported by the upstream
  primary key (account_id, id, part)
) partition by range (id);
create unique index ended_hold_usage on ended_hold (account_id, usage_seq, id);
create trigger append_only before update or delete on ended_hold
  for each row execute function refuse_change();

create view usage_record as
  select account_id, usage_seq, id as hold_id, child_key_id, model, price_version, input_tokens,
         output_tokens, request_cost as cost, estimated, day, month, authorized_at, ended_at as captured_at
    from ended_hold
   where usage_seq is not null;

-- Makes the monthly partitions around now: one back (ids may be a day old) and p_ahead to come.
create function ensure_hold_partitions(p_ahead int) returns int language plpgsql as $$
declare
  v_month timestamp;
  v_name text;
  v_made int := 0;
begin
  perform pg_advisory_xact_lock(hashtext('ensure_hold_partitions'));
  for n in -1..p_ahead loop
    v_month := date_trunc('month', keytoll_clock() at time zone 'UTC') + make_interval(months => n);
    v_name := 'ended_hold_' || to_char(v_month, 'YYYY_MM');
    continue when to_regclass(v_name) is not null;
    execute format('create table %I partition of ended_hold for values from (%L) to (%L)', v_name,
      first_id_of(v_month at time zone 'UTC'),
      first_id_of((v_month + interval '1 month') at time zone 'UTC'));
    v_made := v_made + 1;
  end loop;
  return v_made;
end $$;
select ensure_hold_partitions(3);

-- Gateways that serve requests, each with a lease that it renews.
create table gateway (
  id         uuid primary key,
  started_at timestamptz not null,
  seen_at    timestamptz not null
);
