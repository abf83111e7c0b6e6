-- What all keys of an account may send together, where the operator has set it: null leaves the default of the
-- environment in force, 0 means no limit. Apart from account, whose rows every batch rewrites.
create table account_rate (
  account_id     uuid primary key references account,
  rate_limit_rpm int check (rate_limit_rpm >= 0),
  concurrency    int check (concurrency >= 0),
  updated_at     timestamptz not null
);
