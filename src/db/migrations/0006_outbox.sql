-- What must be told to Temporal, written in the transaction of the row that it is about.
create table outbox (
  id         bigint generated always as identity primary key,
  kind       text not null,                 -- which job: key_expiry
  key        text not null,                 -- natural key of the job: the key's id
  created_at timestamptz not null default keytoll_clock(),
  next_at    timestamptz not null default keytoll_clock(),
  attempts   int not null default 0,
  last_error text,
  set_aside  boolean not null default false -- gave up on it: an operator has to look
);
create index outbox_waiting on outbox (next_at) where not set_aside;

-- A calendar period whose idle counters were rolled, with what was used in it.
create table period_reset (
  kind        text not null check (kind in ('day', 'month')),
  period      date not null,                -- the period that began
  keys_rolled bigint not null default 0,
  requests    bigint not null default 0,    -- of the period that ended
  cost        bigint not null default 0,
  started_at  timestamptz not null default keytoll_clock(),
  finished_at timestamptz,
  primary key (kind, period)
);

-- Usage of a finished day per child key and model.
create table usage_rollup (
  day           date not null,
  child_key_id  uuid not null,
  model         text not null,
  account_id    uuid not null,
  requests      bigint not null,
  input_tokens  bigint not null,
  output_tokens bigint not null,
  cost          bigint not null,
  primary key (day, child_key_id, model)
);
