-- The clock that money goes by. A function of its own, so that tests can set it.
create function keytoll_clock() returns timestamptz language sql volatile
  as $$ select clock_timestamp() $$;

-- Smallest UUIDv7 of an instant: where a partition begins.
create function first_id_of(at timestamptz) returns uuid language sql immutable as $$
  select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;

-- A UUIDv7 of an instant, its other 74 bits random.
create function new_id(at timestamptz) returns uuid language sql volatile as $$
  select (substr(first_id_of(at)::text, 1, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid
$$;

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $$;

-- A prepaid balance in ngonka. balance = posted - accrued; available = balance - held, never negative.
-- Few columns and much free space in each page: these rows are updated by every batch. Of the hot tables only this one
-- has a check, the last line of defence: Postgres reads a check's text anew for every statement.
create type account_status as enum ('active', 'suspended');
create table account (
  id          uuid primary key,
  status      account_status not null default 'active',
  posted      bigint not null default 0,      -- what the journal says
  held        bigint not null default 0,      -- sum of open holds
  accrued     bigint not null default 0,      -- captured, not yet in the journal
  usage_seq   bigint not null default 0,      -- number of the newest usage record
  settled_seq bigint not null default 0,      -- usage up to here is in the journal
  post_no     bigint not null default 0,      -- settlement posts so far
  chain       bytea  not null default decode(repeat('00', 32), 'hex'), -- hash of the newest post
  last_at     timestamptz not null default 'epoch',                    -- this account's time never goes back
  created_at  timestamptz not null default keytoll_clock(),
  check (held >= 0 and accrued >= 0 and posted - accrued - held >= 0)
) with (fillfactor = 20);

-- Which of the four settlement jobs looks after an account.
create function shard_of(account uuid) returns int language sql immutable
  as $$ select get_byte(uuid_send(account), 15) % 4 $$;

-- Who an account belongs to and how they log in.
create table owner (
  account_id    uuid primary key references account,
  email         text not null unique check (email = lower(email)),
  password_hash text not null,
  referral_code text not null unique,
  referred_by   uuid references account,
  created_at    timestamptz not null default keytoll_clock()
);

-- Accounts of the house: the other side of every transfer. Their balances are summed from the journal.
create table house_account (
  id   uuid primary key,
  name text not null unique
);
insert into house_account values
  ('00000000-0000-0000-0000-000000000001', 'deposits'),
  ('00000000-0000-0000-0000-000000000002', 'revenue'),
  ('00000000-0000-0000-0000-000000000003', 'loss'),
  ('00000000-0000-0000-0000-000000000004', 'upstream_cost');

-- Who changed what.
create table audit_event (
  id         bigint generated always as identity primary key,
  account_id uuid,
  at         timestamptz not null default keytoll_clock(),
  actor      text not null,       -- owner:<account>, management_key:<id>, admin, system
  action     text not null,       -- child_key.updated, account.credited, ...
  subject    text not null,       -- id of what was changed
  change     jsonb not null default '{}'
);
create index on audit_event (account_id, id);
create trigger append_only before update or delete on audit_event
  for each row execute function refuse_change();
