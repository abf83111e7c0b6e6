-- Ends of the grace of replaced secrets, for whoever records them. Rows without one are at the far end of the index:
-- a predicate would be read anew for every statement on a hot table.
create index child_key_grace on child_key (previous_secret_until);
create index management_key_grace on management_key (previous_secret_until);

-- Forgets the hashes of secrets of these keys that were replaced and have no grace, and tells how many. Runs as the
-- owner: the application's role may remove no secret by itself.
create function forget_replaced_secrets(p_keys uuid[]) returns int language plpgsql security definer
  set search_path = public, pg_temp as $$
declare
  v_forgotten int;
begin
  delete from key_secret s
   using (select c.id, c.secret_version, c.previous_secret_until as until from child_key c where c.id = any (p_keys)
          union all
          select m.id, m.secret_version, m.previous_secret_until from management_key m where m.id = any (p_keys)) k
   where s.key_id = k.id and s.version < k.secret_version
     and (s.version < k.secret_version - 1 or k.until is null);
  get diagnostics v_forgotten = row_count;
  return v_forgotten;
end $$;
