-- Requests that came with an Idempotency-Key, for 24 hours: whoever repeats one gets the answer that it got.
create table idempotent_request (
  scope_id      uuid not null,          -- who asked: a child key, a management key, or an account for its owner
  key_hash      bytea not null,         -- SHA-256 of the Idempotency-Key
  route         text not null,          -- what was asked, with the fingerprint of how
  fingerprint   bigint not null,
  request_id    uuid not null,          -- of the request that is, or was, answered
  hold_id       uuid,                   -- its hold; null where it needs none
  claimed_at    timestamptz not null,
  answered_at   timestamptz,            -- null: it runs, or came to nothing, or its answer could not be stored
  -- what its hold is captured at
  cost          bigint,
  input_tokens  bigint,
  output_tokens bigint,
  estimated     boolean,
  -- the answer; null where it was too large
  key_name      text,
  sealed        bytea,
  primary key (scope_id, key_hash)
) with (fillfactor = 50);
create index idempotent_request_age on idempotent_request (claimed_at);

-- Claims keys for requests that are about to run, each with the hold that it will open, and tells of those that cannot
-- have theirs. p_scopes and p_hashes ascending: no two batches wait for each other.
--
-- A key is free again when its request came to nothing: its hold was voided or swept, or was not opened within 20 s of
-- the claim (a request that opens it even later finds that its claim is lost when it stores its answer, and is not
-- captured). So it is after 24 hours.
--
-- state: conflict  the key was used for something else
--        running   its request runs, or its gateway died and its hold was not swept yet
--        answered  its answer is stored, with what to capture; captured tells whether that was done
--        unstored  its request was captured and its answer is not stored
create function claim_requests(
  p_accounts uuid[], p_scopes uuid[], p_hashes text[], p_routes text[], p_fingerprints bigint[],
  p_requests uuid[], p_holds uuid[]
) returns table (item int, state text, request_id uuid, hold_id uuid, captured boolean, cost bigint,
                 input_tokens bigint, output_tokens bigint, estimated boolean, key_name text, sealed bytea)
language plpgsql as $$
#variable_conflict use_column
declare
  v_clock timestamptz := keytoll_clock();
  v_claimed int;
  r record;
begin
  insert into idempotent_request (scope_id, key_hash, route, fingerprint, request_id, hold_id, claimed_at)
    select q.scope, decode(q.hash, 'hex'), q.route, q.fingerprint, q.request, q.hold, v_clock
      from unnest(p_scopes, p_hashes, p_routes, p_fingerprints, p_requests, p_holds)
           q(scope, hash, route, fingerprint, request, hold)
    on conflict do nothing;
  get diagnostics v_claimed = row_count;
  if v_claimed = cardinality(p_scopes) then return; end if;

  -- locked first and read after: what is read is then of one moment, and stays
  perform 1 from unnest(p_scopes, p_hashes) with ordinality q(scope, hash, o),
                 lateral (select from idempotent_request i
                           where i.scope_id = q.scope and i.key_hash = decode(q.hash, 'hex') for update) i;
  for r in select q.o::int as item, q.route as new_route, q.fingerprint as new_fingerprint, q.request as new_request,
                  q.hold as new_hold, i.*, coalesce(ended.outcome::text, opened.outcome, 'none') as outcome
             from unnest(p_accounts, p_scopes, p_hashes, p_routes, p_fingerprints, p_requests, p_holds) with ordinality
                  q(account, scope, hash, route, fingerprint, request, hold, o)
             join idempotent_request i on i.scope_id = q.scope and i.key_hash = decode(q.hash, 'hex')
             left join lateral (select 'open' as outcome from open_hold h
                                 where h.account_id = q.account and h.id = i.hold_id and h.part = 0) opened on true
             left join lateral (select h.outcome from ended_hold h
                                 where h.account_id = q.account and h.id = i.hold_id and h.part = 0) ended on true
            where i.hold_id is distinct from q.hold loop
    if r.claimed_at <= v_clock - interval '24 hours' or r.outcome in ('voided', 'swept')
      or (r.outcome = 'none' and r.answered_at is null and r.claimed_at <= v_clock - interval '20 seconds') then
      update idempotent_request i
         set route = r.new_route, fingerprint = r.new_fingerprint, request_id = r.new_request, hold_id = r.new_hold,
             claimed_at = v_clock, answered_at = null, key_name = null, sealed = null
       where i.scope_id = r.scope_id and i.key_hash = r.key_hash;
      continue;
    end if;
    return query select r.item,
      case when r.route <> r.new_route or r.fingerprint <> r.new_fingerprint then 'conflict'
           when r.answered_at is not null then 'answered'
           when r.outcome = 'captured' then 'unstored'
           else 'running' end,
      r.request_id, r.hold_id, r.outcome = 'captured', r.cost, r.input_tokens, r.output_tokens, r.estimated,
      r.key_name, r.sealed;
  end loop;
end $$;

-- Stores answers with what their holds are to be captured at, before anybody captures. Answers the items whose claim was
-- lost to another request (1-based, comma-separated): they must not be captured. Null: none.
create function keep_answers(
  p_scopes uuid[], p_hashes text[], p_holds uuid[], p_costs bigint[], p_inputs bigint[], p_outputs bigint[],
  p_estimated boolean[], p_key_names text[], p_sealed text[]
) returns text language plpgsql as $$
declare
  v_kept int[];
begin
  with kept as (
    update idempotent_request i
       set answered_at = keytoll_clock(), cost = q.cost, input_tokens = q.input, output_tokens = q.output,
           estimated = q.estimated, key_name = q.key_name, sealed = decode(q.sealed, 'base64')
      from unnest(p_scopes, p_hashes, p_holds, p_costs, p_inputs, p_outputs, p_estimated, p_key_names, p_sealed)
           with ordinality q(scope, hash, hold, cost, input, output, estimated, key_name, sealed, o)
     where i.scope_id = q.scope and i.key_hash = decode(q.hash, 'hex') and i.hold_id = q.hold
    returning q.o::int)
  select array_agg(k.o) into v_kept from kept k;
  if cardinality(v_kept) = cardinality(p_scopes) then return null; end if;
  return (select string_agg(o::text, ',') from generate_subscripts(p_scopes, 1) o
           where o <> all (coalesce(v_kept, '{}')));
end $$;

-- Gives back keys whose requests came to nothing. Runs as the owner: nobody else removes a row by itself.
create function free_requests(p_scopes uuid[], p_hashes text[], p_holds uuid[]) returns void
  language sql security definer set search_path = public, pg_temp as $$
  delete from idempotent_request i
   using unnest(p_scopes, p_hashes, p_holds) q(scope, hash, hold)
   where i.scope_id = q.scope and i.key_hash = decode(q.hash, 'hex') and i.hold_id = q.hold
     and i.answered_at is null
$$;

-- Forgets up to p_limit requests of more than 24 hours ago, and tells how many. Runs as the owner.
create function forget_requests(p_limit int) returns int
  language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_forgotten int;
begin
  delete from idempotent_request
   where ctid = any (array(select i.ctid from idempotent_request i
                            where i.claimed_at <= keytoll_clock() - interval '24 hours'
                            order by i.claimed_at limit p_limit for update skip locked));
  get diagnostics v_forgotten = row_count;
  return v_forgotten;
end $$;

-- As for the other batch functions: plans that were made on an empty table must not stay.
do $$
declare
  v_function regprocedure;
  v_setting text;
begin
  for v_function in select p.oid::regprocedure from pg_proc p
                     where p.proname in ('claim_requests', 'keep_answers', 'free_requests') loop
    foreach v_setting in array array['plan_cache_mode = force_generic_plan', 'enable_seqscan = off',
                                     'enable_hashjoin = off', 'enable_mergejoin = off', 'jit = off'] loop
      execute format('alter function %s set %s', v_function, v_setting);
    end loop;
  end loop;
end $$;
