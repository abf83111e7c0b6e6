-- The journal: each row moves an amount from one account to another. Debit lowers a customer's balance.
create table transfer (
  id             uuid primary key,
  debit_account  uuid not null,
  credit_account uuid not null,
  amount         bigint not null check (amount > 0),
  kind           text not null check (kind in ('credit', 'settlement', 'loss')),
  reference      text not null,              -- natural key: the same thing is never posted twice
  posted_at      timestamptz not null,
  check (debit_account <> credit_account),
  unique (kind, reference)
);
create index on transfer (debit_account, id);
create index on transfer (credit_account, id);
create trigger append_only before update or delete on transfer
  for each row execute function refuse_change();

-- One settled batch of an account's usage, and its link in that account's hash chain.
create table settlement_post (
  account_id    uuid not null,
  no            bigint not null,
  from_seq      bigint not null,             -- first usage number in it
  to_seq        bigint not null,             -- last
  amount        bigint not null check (amount >= 0),
  transfer_id   uuid,                        -- null where the batch cost nothing
  previous_hash bytea not null,
  hash          bytea not null,
  posted_at     timestamptz not null,
  primary key (account_id, no),
  check (to_seq >= from_seq)
);
create trigger append_only before update or delete on settlement_post
  for each row execute function refuse_change();
