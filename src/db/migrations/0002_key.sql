create type key_status as enum ('active', 'disabled', 'deleted');

-- gm-: administers its account's child keys, can never infer.
create table management_key (
  id                    uuid primary key,
  account_id            uuid not null references account,
  name                  text not null,
  access                text not null default 'read_write' check (access in ('read_write', 'read_only')),
  status                key_status not null default 'active',
  hint                  text not null,
  expires_at            timestamptz,
  expiry_recorded       timestamptz,          -- the expires_at whose passing is on record
  secret_version        int not null default 1,
  previous_secret_until timestamptz,          -- end of the grace of version secret_version - 1
  created_at            timestamptz not null,
  updated_at            timestamptz not null
);
create index on management_key (account_id, id);
create index management_key_expiry on management_key (expires_at)
  where expires_at is not null and status <> 'deleted' and expiry_recorded is distinct from expires_at;

-- gc-: infers, can never administer. Counters carry their period and hold captured plus open amounts.
create table child_key (
  id                    uuid primary key,
  account_id            uuid not null references account,
  management_key_id     uuid not null references management_key,
  name                  text not null,
  status                key_status not null default 'active',
  hint                  text not null,
  expires_at            timestamptz,
  expiry_recorded       timestamptz,
  secret_version        int not null default 1,
  previous_secret_until timestamptz,
  rate_limit_rpm        int,
  models                text[],               -- null: all
  limit_daily           bigint,
  limit_monthly         bigint,
  limit_total           bigint,
  day                   date not null,        -- UTC day that used_daily counts
  used_daily            bigint not null default 0,
  month                 date not null,        -- first day of the UTC month that used_monthly counts
  used_monthly          bigint not null default 0,
  used_total            bigint not null default 0,
  held                  bigint not null default 0,
  requests_total        bigint not null default 0,
  last_used_at          timestamptz,
  metadata              jsonb not null default '{}',
  created_at            timestamptz not null,
  updated_at            timestamptz not null
) with (fillfactor = 30);
create index on child_key (management_key_id, id);
create index child_key_expiry on child_key (expires_at)
  where expires_at is not null and status <> 'deleted' and expiry_recorded is distinct from expires_at;

-- Every limit that was ever in force, so that each authorization can be checked against its own.
create table child_limit (
  child_key_id  uuid not null references child_key,
  since         timestamptz not null,
  limit_daily   bigint,
  limit_monthly bigint,
  limit_total   bigint,
  primary key (child_key_id, since)
);
create trigger append_only before update or delete on child_limit
  for each row execute function refuse_change();

-- Secrets are kept as keyed hashes only; the pepper's name tells which of several peppers made the hash.
create table key_secret (
  hash       bytea primary key,
  pepper     text not null,
  kind       text not null check (kind in ('management', 'child')),
  key_id     uuid not null,
  version    int not null,
  created_at timestamptz not null default keytoll_clock(),
  unique (key_id, version)
);
