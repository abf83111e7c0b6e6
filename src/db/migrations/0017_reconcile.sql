-- Accounts whose usage could not be posted: left alone until next_at, so that they stop no other. A row stays after
-- the account was posted again, with when.
create table settlement_set_aside (
  account_id uuid primary key,
  reason     text not null,
  attempts   int not null default 1,          -- in vain, since it was set aside
  since      timestamptz not null default keytoll_clock(),
  last_at    timestamptz not null default keytoll_clock(),
  next_at    timestamptz not null,
  settled_at timestamptz                      -- it was posted again
);
create index settlement_set_aside_open on settlement_set_aside (next_at) where settled_at is null;

-- A day's pass over the books and over what must not wait long. A pass again on the same day is told here too.
create table reconcile_run (
  day         date primary key,
  started_at  timestamptz not null default keytoll_clock(),
  finished_at timestamptz,                    -- of the newest pass
  passes      int not null default 0,
  whole       boolean,                        -- from the first row on, not from a checkpoint
  invariants  int,
  records     bigint,                         -- usage records that were looked at
  holds       bigint,
  differences int,                            -- found by the newest pass
  digest      text                            -- of the checkpoint that a green pass noted, hex
);

-- A difference between what is stored and what it should be, for as long as passes find it.
create table reconcile_finding (
  id          bigint generated always as identity primary key,
  invariant   int not null,                   -- 1 to 12; 0: not of the books, but of what waits
  subject     text not null,                  -- id of what is wrong: an account, a hold, a child key, an outbox entry
  sort        text not null,                  -- the reason without its numbers: what makes it the same one tomorrow
  reason      text not null,
  first_seen  timestamptz not null default keytoll_clock(),
  last_seen   timestamptz not null default keytoll_clock(),
  resolved_at timestamptz                     -- a pass no longer found it
);
create unique index reconcile_finding_open on reconcile_finding (invariant, subject, md5(sort)) where resolved_at is null;
