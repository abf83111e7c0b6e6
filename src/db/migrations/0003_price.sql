-- Prices by version: a change is a new row, and a hold keeps the version that it was authorized with.
create table model_price (
  model             text not null,
  version           int not null check (version > 0),
  input_per_mtok    bigint not null check (input_per_mtok >= 0),   -- ngonka per million tokens
  output_per_mtok   bigint not null check (output_per_mtok >= 0),
  context_tokens    int check (context_tokens > 0),
  max_output_tokens int check (max_output_tokens > 0),
  enabled           boolean not null default true,
  since             timestamptz not null default keytoll_clock(),
  primary key (model, version)
);
create trigger append_only before update or delete on model_price
  for each row execute function refuse_change();
