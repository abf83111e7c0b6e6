-- The application's role: what serve and work act as. It may do what they do, and cannot change or remove what is on
-- record: nothing but select and insert on whatever is append-only, no table of its own, so no trigger to disable.
-- Roles belong to the whole cluster: another database's migration may make it at the same moment. A login that may not
-- make roles leaves it to the operator; `keytoll migrate` says so and grants once the role is there.
do $$
begin
  if not exists (select from pg_roles where rolname = 'keytoll_app') then
    create role keytoll_app nologin;
    if not (select rolsuper from pg_roles where rolname = current_user) then
      execute format('grant keytoll_app to %I', current_user);
    end if;
  end if;
exception
  when duplicate_object or unique_violation then null;
  when insufficient_privilege then null;
end $$;

-- Gives the role its privileges on all that there is now: runs after every migration, so that a new table is covered.
-- What has an append-only trigger can only be read and added to, whatever was granted before. Partitions get nothing:
-- they are reached through their table, and not at all once they are detached.
-- Answers false where the role is missing.
create function grant_to_application() returns boolean language plpgsql as $$
declare
  v_table regclass;
  v_deletable constant text[] := array['open_hold', 'gateway', 'outbox'];
  v_read_only constant text[] := array['house_account', 'schema_migration', 'proof', 'proof_account', 'proof_child',
                                       'detached_partition', 'detached_account', 'detached_child'];
begin
  if not exists (select from pg_roles where rolname = 'keytoll_app') then return false; end if;
  grant usage on schema public to keytoll_app;
  for v_table in select c.oid from pg_class c
                  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition loop
    if v_table::text = any (v_read_only) or (select relkind = 'v' from pg_class where oid = v_table) then
      execute format('revoke all on %s from keytoll_app', v_table);
      execute format('grant select on %s to keytoll_app', v_table);
    elsif exists (select from pg_trigger t where t.tgrelid = v_table and t.tgname = 'append_only') then
      execute format('revoke all on %s from keytoll_app', v_table);
      execute format('grant select, insert on %s to keytoll_app', v_table);
    else
      execute format('grant select, insert, update on %s to keytoll_app', v_table);
    end if;
    if v_table::text = any (v_deletable) then
      execute format('grant delete on %s to keytoll_app', v_table);
    end if;
  end loop;
  return true;
end $$;

-- Triggers are not asked about truncate row by row: refused as a statement, whoever asks.
do $$
declare
  v_table regclass;
begin
  for v_table in select tgrelid from pg_trigger where tgname = 'append_only' and tgparentid = 0 loop
    execute format('create trigger no_truncate before truncate on %s for each statement execute function refuse_change()', v_table);
  end loop;
end $$;

-- The worker makes partitions ahead, which only the owner of the table may: this runs as the owner.
alter function ensure_hold_partitions(int) security definer set search_path = public, pg_temp;

-- Accounts of the house for what is on its way in, and for what is owed to those who brought a customer.
insert into house_account values
  ('00000000-0000-0000-0000-000000000005', 'referral'),
  ('00000000-0000-0000-0000-000000000006', 'deposits_in_transit');

-- Balances of the house, summed from the journal: nothing is stored, so nothing contends on them.
create view house_balance as
  select h.id, h.name,
         coalesce((select sum(t.amount) from transfer t where t.credit_account = h.id), 0)
           - coalesce((select sum(t.amount) from transfer t where t.debit_account = h.id), 0) as balance
    from house_account h;
