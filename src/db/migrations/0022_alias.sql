-- Names that an owner's clients see in place of a model's own, one row for each name that was ever given. A name whose
-- model is null is no longer in use.
create table model_alias (
  account_id uuid not null references account (id),
  alias      text not null check (alias ~ '^[A-Za-z0-9._:/-]{1,200}$'),
  model      text,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (account_id, alias)
);

-- How the cost stands in what the children of a key are answered.
alter table management_key add column cost_fields text not null default 'neutral'
  check (cost_fields in ('neutral', 'gonka', 'none'));
