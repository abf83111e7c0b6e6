-- Made from the migrations by `npm run schema`. Not to be edited.


create table account (
  id uuid not null,
  status account_status not null default 'active'::account_status,
  posted bigint not null default 0,
  held bigint not null default 0,
  accrued bigint not null default 0,
  usage_seq bigint not null default 0,
  settled_seq bigint not null default 0,
  post_no bigint not null default 0,
  chain bytea not null default decode(repeat('00'::text, 32), 'hex'::text),
  last_at timestamp with time zone not null default '1970-01-01 00:00:00+00'::timestamp with time zone,
  created_at timestamp with time zone not null default keytoll_clock(),
  constraint account_check CHECK (((held >= 0) AND (accrued >= 0) AND (((posted - accrued) - held) >= 0))),
  constraint account_pkey PRIMARY KEY (id)
) with (fillfactor=20);

create table audit_event (
  id bigint not null generated always as identity,
  account_id uuid,
  at timestamp with time zone not null default keytoll_clock(),
  actor text not null,
  action text not null,
  subject text not null,
  change jsonb not null default '{}'::jsonb,
  constraint audit_event_pkey PRIMARY KEY (id)
);
CREATE INDEX audit_event_account_id_id_idx ON public.audit_event USING btree (account_id, id);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.audit_event FOR EACH ROW EXECUTE FUNCTION refuse_change();

create table child_key (
  id uuid not null,
  account_id uuid not null,
  management_key_id uuid not null,
  name text not null,
  status key_status not null default 'active'::key_status,
  hint text not null,
  expires_at timestamp with time zone,
  expiry_recorded timestamp with time zone,
  secret_version integer not null default 1,
  previous_secret_until timestamp with time zone,
  rate_limit_rpm integer,
  models text[],
  limit_daily bigint,
  limit_monthly bigint,
  limit_total bigint,
  day date not null,
  used_daily bigint not null default 0,
  month date not null,
  used_monthly bigint not null default 0,
  used_total bigint not null default 0,
  held bigint not null default 0,
  requests_total bigint not null default 0,
  last_used_at timestamp with time zone,
  metadata jsonb not null default '{}'::jsonb,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  constraint child_key_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint child_key_management_key_id_fkey FOREIGN KEY (management_key_id) REFERENCES management_key(id),
  constraint child_key_pkey PRIMARY KEY (id)
) with (fillfactor=30);
CREATE INDEX child_key_expiry ON public.child_key USING btree (expires_at) WHERE ((expires_at IS NOT NULL) AND (status <> 'deleted'::key_status) AND (expiry_recorded IS DISTINCT FROM expires_at));
CREATE INDEX child_key_management_key_id_id_idx ON public.child_key USING btree (management_key_id, id);

create table child_limit (
  child_key_id uuid not null,
  since timestamp with time zone not null,
  limit_daily bigint,
  limit_monthly bigint,
  limit_total bigint,
  constraint child_limit_child_key_id_fkey FOREIGN KEY (child_key_id) REFERENCES child_key(id),
  constraint child_limit_pkey PRIMARY KEY (child_key_id, since)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.child_limit FOR EACH ROW EXECUTE FUNCTION refuse_change();

create table ended_hold (
  account_id uuid not null,
  id uuid not null,
  part smallint not null,
  child_key_id uuid not null,
  amount bigint not null,
  cost bigint not null,
  outcome hold_outcome not null,
  day date not null,
  month date not null,
  authorized_at timestamp with time zone not null,
  ended_at timestamp with time zone not null,
  fingerprint bigint not null,
  end_fingerprint bigint not null,
  model text,
  price_version integer,
  usage_seq bigint,
  request_cost bigint,
  input_tokens bigint,
  output_tokens bigint,
  estimated boolean,
  constraint ended_hold_pkey PRIMARY KEY (account_id, id, part)
) partition by RANGE (id);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.ended_hold FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE UNIQUE INDEX ended_hold_usage ON ONLY public.ended_hold USING btree (account_id, usage_seq, id);

create table gateway (
  id uuid not null,
  started_at timestamp with time zone not null,
  seen_at timestamp with time zone not null,
  constraint gateway_pkey PRIMARY KEY (id)
);

create table house_account (
  id uuid not null,
  name text not null,
  constraint house_account_name_key UNIQUE (name),
  constraint house_account_pkey PRIMARY KEY (id)
);

create table key_secret (
  hash bytea not null,
  pepper text not null,
  kind text not null,
  key_id uuid not null,
  version integer not null,
  created_at timestamp with time zone not null default keytoll_clock(),
  constraint key_secret_key_id_version_key UNIQUE (key_id, version),
  constraint key_secret_kind_check CHECK ((kind = ANY (ARRAY['management'::text, 'child'::text]))),
  constraint key_secret_pkey PRIMARY KEY (hash)
);

create table management_key (
  id uuid not null,
  account_id uuid not null,
  name text not null,
  access text not null default 'read_write'::text,
  status key_status not null default 'active'::key_status,
  hint text not null,
  expires_at timestamp with time zone,
  expiry_recorded timestamp with time zone,
  secret_version integer not null default 1,
  previous_secret_until timestamp with time zone,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  constraint management_key_access_check CHECK ((access = ANY (ARRAY['read_write'::text, 'read_only'::text]))),
  constraint management_key_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint management_key_pkey PRIMARY KEY (id)
);
CREATE INDEX management_key_account_id_id_idx ON public.management_key USING btree (account_id, id);
CREATE INDEX management_key_expiry ON public.management_key USING btree (expires_at) WHERE ((expires_at IS NOT NULL) AND (status <> 'deleted'::key_status) AND (expiry_recorded IS DISTINCT FROM expires_at));

create table model_price (
  model text not null,
  version integer not null,
  input_per_mtok bigint not null,
  output_per_mtok bigint not null,
  context_tokens integer,
  max_output_tokens integer,
  enabled boolean not null default true,
  since timestamp with time zone not null default keytoll_clock(),
  constraint model_price_context_tokens_check CHECK ((context_tokens > 0)),
  constraint model_price_input_per_mtok_check CHECK ((input_per_mtok >= 0)),
  constraint model_price_max_output_tokens_check CHECK ((max_output_tokens > 0)),
  constraint model_price_output_per_mtok_check CHECK ((output_per_mtok >= 0)),
  constraint model_price_pkey PRIMARY KEY (model, version),
  constraint model_price_version_check CHECK ((version > 0))
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.model_price FOR EACH ROW EXECUTE FUNCTION refuse_change();

create table open_hold (
  account_id uuid not null,
  id uuid not null,
  part smallint not null,
  child_key_id uuid not null,
  amount bigint not null,
  day date not null,
  month date not null,
  authorized_at timestamp with time zone not null,
  deadline timestamp with time zone not null,
  fingerprint bigint not null,
  gateway_id uuid,
  model text,
  price_version integer,
  checkpoint_cost bigint,
  checkpoint_input bigint,
  checkpoint_output bigint,
  constraint open_hold_pkey PRIMARY KEY (account_id, id, part)
) with (fillfactor=90, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=20000, autovacuum_vacuum_cost_delay=0);
CREATE INDEX open_hold_deadline ON public.open_hold USING btree (deadline);

create table outbox (
  id bigint not null generated always as identity,
  kind text not null,
  key text not null,
  created_at timestamp with time zone not null default keytoll_clock(),
  next_at timestamp with time zone not null default keytoll_clock(),
  attempts integer not null default 0,
  last_error text,
  set_aside boolean not null default false,
  constraint outbox_pkey PRIMARY KEY (id)
);
CREATE INDEX outbox_waiting ON public.outbox USING btree (next_at) WHERE (NOT set_aside);

create table owner (
  account_id uuid not null,
  email text not null,
  password_hash text not null,
  referral_code text not null,
  referred_by uuid,
  created_at timestamp with time zone not null default keytoll_clock(),
  constraint owner_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint owner_email_check CHECK ((email = lower(email))),
  constraint owner_email_key UNIQUE (email),
  constraint owner_pkey PRIMARY KEY (account_id),
  constraint owner_referral_code_key UNIQUE (referral_code),
  constraint owner_referred_by_fkey FOREIGN KEY (referred_by) REFERENCES account(id)
);

create table period_reset (
  kind text not null,
  period date not null,
  keys_rolled bigint not null default 0,
  requests bigint not null default 0,
  cost bigint not null default 0,
  started_at timestamp with time zone not null default keytoll_clock(),
  finished_at timestamp with time zone,
  constraint period_reset_kind_check CHECK ((kind = ANY (ARRAY['day'::text, 'month'::text]))),
  constraint period_reset_pkey PRIMARY KEY (kind, period)
);

create table schema_migration (
  name text not null,
  applied_at timestamp with time zone not null default clock_timestamp(),
  constraint schema_migration_pkey PRIMARY KEY (name)
);

create table settlement_post (
  account_id uuid not null,
  no bigint not null,
  from_seq bigint not null,
  to_seq bigint not null,
  amount bigint not null,
  transfer_id uuid,
  previous_hash bytea not null,
  hash bytea not null,
  posted_at timestamp with time zone not null,
  constraint settlement_post_amount_check CHECK ((amount >= 0)),
  constraint settlement_post_check CHECK ((to_seq >= from_seq)),
  constraint settlement_post_pkey PRIMARY KEY (account_id, no)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.settlement_post FOR EACH ROW EXECUTE FUNCTION refuse_change();

create table transfer (
  id uuid not null,
  debit_account uuid not null,
  credit_account uuid not null,
  amount bigint not null,
  kind text not null,
  reference text not null,
  posted_at timestamp with time zone not null,
  constraint transfer_amount_check CHECK ((amount > 0)),
  constraint transfer_check CHECK ((debit_account <> credit_account)),
  constraint transfer_kind_check CHECK ((kind = ANY (ARRAY['credit'::text, 'settlement'::text, 'loss'::text]))),
  constraint transfer_kind_reference_key UNIQUE (kind, reference),
  constraint transfer_pkey PRIMARY KEY (id)
);
CREATE INDEX transfer_credit_account_id_idx ON public.transfer USING btree (credit_account, id);
CREATE INDEX transfer_debit_account_id_idx ON public.transfer USING btree (debit_account, id);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.transfer FOR EACH ROW EXECUTE FUNCTION refuse_change();

create view usage_record as
 SELECT account_id,
    usage_seq,
    id AS hold_id,
    child_key_id,
    model,
    price_version,
    input_tokens,
    output_tokens,
    request_cost AS cost,
    estimated,
    day,
    month,
    authorized_at,
    ended_at AS captured_at
   FROM ended_hold
  WHERE (usage_seq IS NOT NULL);

create table usage_rollup (
  day date not null,
  child_key_id uuid not null,
  model text not null,
  account_id uuid not null,
  requests bigint not null,
  input_tokens bigint not null,
  output_tokens bigint not null,
  cost bigint not null,
  constraint usage_rollup_pkey PRIMARY KEY (day, child_key_id, model)
);

CREATE OR REPLACE FUNCTION public.authorize_holds(p_accounts uuid[], p_children uuid[], p_child_account integer[], p_ids uuid[], p_parts smallint[], p_child integer[], p_amounts bigint[], p_floors bigint[], p_versions integer[], p_seconds integer[], p_fingerprints bigint[], p_models text[], p_prices integer[], p_own boolean[], p_gateway uuid, OUT decisions text, OUT granted text, OUT authorized_at text, OUT daily text, OUT monthly text, OUT total text)
 RETURNS record
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  n int := cardinality(p_ids);
  -- per account
  a_n int := cardinality(p_accounts);
  a_status smallint[] := array_fill(0::smallint, array[a_n]);  -- 0 unknown, 1 active, 2 suspended
  a_now timestamptz[] := array_fill(null::timestamptz, array[a_n]);
  a_day date[] := array_fill(null::date, array[a_n]);
  a_month date[] := array_fill(null::date, array[a_n]);
  a_free bigint[] := array_fill(0::bigint, array[a_n]);        -- available
  a_held bigint[] := array_fill(0::bigint, array[a_n]);        -- held before this batch
  a_add bigint[] := array_fill(0::bigint, array[a_n]);
  -- per child
  c_status smallint[];           -- 0 may spend, else the decision it gets
  c_version int[];
  c_grace boolean[];
  c_day bigint[];                -- remaining, null: no limit
  c_month bigint[];
  c_total bigint[];
  c_held bigint[];
  c_add bigint[] := array_fill(0::bigint, array[cardinality(p_children)]);
  -- per item
  i_result smallint[] := array_fill(0::smallint, array[n]);
  i_amount bigint[] := p_amounts;
  i_day bigint[] := array_fill(null::bigint, array[n]);
  i_month bigint[] := array_fill(null::bigint, array[n]);
  i_total bigint[] := array_fill(null::bigint, array[n]);
  r record;
  i int := 1;
  ci int;
  ai int;
  want bigint;
  most bigint;
  first_ended boolean;
  v_first uuid;    -- of the batch's ids: only the partitions between them are opened
  v_last uuid;
  v_id uuid;
begin
  for r in select a.id, a.status, a.posted, a.accrued, a.held,
                  greatest(keytoll_clock(), a.last_at + interval '1 microsecond') as at
             from account a where a.id = any (p_accounts) order by a.id for no key update loop
    while p_accounts[i] <> r.id loop i := i + 1; end loop;
    a_status[i] := case r.status when 'active' then 1 else 2 end;
    a_now[i] := r.at;
    a_day[i] := (r.at at time zone 'UTC')::date;
    a_month[i] := date_trunc('month', r.at at time zone 'UTC')::date;
    a_free[i] := r.posted - r.accrued - r.held;
    a_held[i] := r.held;
  end loop;

  -- A counter of a later period than the clock's still counts: a clock that steps back opens nothing again.
  select array_agg((case
           when c.id is null or c.account_id <> p_accounts[u.a] or c.status = 'deleted' or a_status[u.a] = 0 then 5
           when c.status <> 'active' or m.status <> 'active'
             or c.expires_at <= a_now[u.a] or m.expires_at <= a_now[u.a] then 6
           when a_status[u.a] = 2 then 7
           else 0 end)::smallint order by u.o),
         array_agg(coalesce(c.secret_version, 0) order by u.o),
         array_agg(coalesce(c.previous_secret_until > a_now[u.a], false) order by u.o),
         array_agg(c.limit_daily - case when c.day >= a_day[u.a] then c.used_daily else 0 end order by u.o),
         array_agg(c.limit_monthly - case when c.month >= a_month[u.a] then c.used_monthly else 0 end order by u.o),
         array_agg(c.limit_total - c.used_total order by u.o),
         array_agg(coalesce(c.held, 0) order by u.o)
    into c_status, c_version, c_grace, c_day, c_month, c_total, c_held
    from unnest(p_children, p_child_account) with ordinality u(id, a, o)
    left join child_key c on c.id = u.id
    left join management_key m on m.id = c.management_key_id;

  foreach v_id in array p_ids loop
    v_first := least(v_first, v_id);
    v_last := greatest(v_last, v_id);
  end loop;

  -- Scalar sub-selects stay index probes whatever the statistics say.
  for r in select * from (
             select q.o, p_fingerprints[q.o] as asked,
                    (select array[h.fingerprint, h.amount] from open_hold h
                      where h.account_id = p_accounts[p_child_account[q.child]] and h.id = q.id and h.part = q.part) as open,
                    (select array[e.fingerprint, e.amount] from ended_hold e
                      where e.account_id = p_accounts[p_child_account[q.child]] and e.id = q.id and e.part = q.part
                        and e.id between v_first and v_last) as ended
               from unnest(p_ids, p_parts, p_child) with ordinality q(id, part, child, o)) f
            where f.open is not null or f.ended is not null loop
    i_result[r.o] := case when (coalesce(r.open, r.ended))[1] <> r.asked then 4 when r.open is not null then 2 else 3 end;
    i_amount[r.o] := (coalesce(r.open, r.ended))[2];   -- what was granted then
  end loop;

  for i in 1..n loop
    ci := p_child[i];
    ai := p_child_account[ci];
    want := i_amount[i];
    first_ended := false;
    if p_parts[i] > 0 then    -- apart, because an expression with a sub-select costs ten times a plain one
      first_ended := not exists (
        select 1 from open_hold h
         where h.account_id = p_accounts[ai] and h.id = p_ids[i] and h.part = 0 and h.child_key_id = p_children[ci]);
    end if;
    if i_result[i] = 0 then
      if c_status[ci] > 0 then
        i_result[i] := c_status[ci];
      elsif p_versions[i] > 0 and p_versions[i] <> c_version[ci]
        and not (p_versions[i] = c_version[ci] - 1 and c_grace[ci]) then
        i_result[i] := 6;
      elsif first_ended then
        i_result[i] := 8;
      else
        if p_floors[i] > 0 then
          most := least(a_free[ai], c_day[ci], c_month[ci], c_total[ci]);
          if want > most and p_floors[i] <= most then
            want := greatest(p_floors[i], most / 2);
            i_amount[i] := want;
          end if;
        end if;
        if want > c_day[ci] then
          i_result[i] := case when want > c_day[ci] + c_held[ci] then 10 else 20 end;
        elsif want > c_month[ci] then
          i_result[i] := case when want > c_month[ci] + c_held[ci] then 11 else 21 end;
        elsif want > c_total[ci] then
          i_result[i] := case when want > c_total[ci] + c_held[ci] then 12 else 22 end;
        elsif want > a_free[ai] then
          i_result[i] := case when want > a_free[ai] + a_held[ai] then 13 else 23 end;
        else
          i_result[i] := 1;
          a_free[ai] := a_free[ai] - want;
          a_held[ai] := a_held[ai] + want;
          a_add[ai] := a_add[ai] + want;
          c_day[ci] := c_day[ci] - want;
          c_month[ci] := c_month[ci] - want;
          c_total[ci] := c_total[ci] - want;
          c_held[ci] := c_held[ci] + want;
          c_add[ci] := c_add[ci] + want;
        end if;
      end if;
    end if;
    i_day[i] := c_day[ci];
    i_month[i] := c_month[ci];
    i_total[i] := c_total[ci];
  end loop;

  update account a set held = a.held + s.more, last_at = s.at
    from unnest(p_accounts, a_add, a_now) s(id, more, at) where a.id = s.id and s.more > 0;

  update child_key c
     set used_daily = case when c.day >= s.day then c.used_daily else 0 end + s.more,
         day = greatest(c.day, s.day),
         used_monthly = case when c.month >= s.month then c.used_monthly else 0 end + s.more,
         month = greatest(c.month, s.month),
         used_total = c.used_total + s.more,
         held = c.held + s.more
    from (select u.id, u.more, a_day[u.a] as day, a_month[u.a] as month
            from unnest(p_children, p_child_account, c_add) u(id, a, more) where u.more > 0) s
   where c.id = s.id;

  insert into open_hold
    select p_accounts[p_child_account[q.child]], q.id, q.part, p_children[q.child], q.amount,
           a_day[p_child_account[q.child]], a_month[p_child_account[q.child]],
           a_now[p_child_account[q.child]], a_now[p_child_account[q.child]] + make_interval(secs => q.seconds),
           q.fingerprint, case when q.own then p_gateway end, q.model, q.price
      from unnest(p_ids, p_parts, p_child, i_amount, p_seconds, p_fingerprints, p_models, p_prices, p_own, i_result)
           q(id, part, child, amount, seconds, fingerprint, model, price, own, result)
     where q.result = 1;

  decisions := array_to_string(i_result, ',');
  granted := array_to_string(i_amount, ',');
  authorized_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                           from unnest(a_now) with ordinality u(t, o) order by o), ',', '');
  daily := array_to_string(i_day, ',', '');
  monthly := array_to_string(i_month, ',', '');
  total := array_to_string(i_total, ',', '');
end $function$

CREATE OR REPLACE FUNCTION public.end_and_authorize(p_all_accounts uuid[], p_end_accounts uuid[], p_end_ids uuid[], p_end_account integer[], p_kinds smallint[], p_costs bigint[], p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_end_fingerprints bigint[], p_accounts uuid[], p_children uuid[], p_child_account integer[], p_ids uuid[], p_parts smallint[], p_child integer[], p_amounts bigint[], p_floors bigint[], p_versions integer[], p_seconds integer[], p_fingerprints bigint[], p_models text[], p_prices integer[], p_own boolean[], p_gateway uuid, OUT end_decisions text, OUT costs text, OUT usage_seqs text, OUT ended_at text, OUT decisions text, OUT granted text, OUT authorized_at text, OUT daily text, OUT monthly text, OUT total text)
 RETURNS record
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
begin
  perform 1 from account a where a.id = any (p_all_accounts) order by a.id for no key update;
  select e.decisions, e.costs, e.usage_seqs, e.ended_at into end_decisions, costs, usage_seqs, ended_at
    from end_holds(p_end_accounts, p_end_ids, p_end_account, p_kinds, p_costs, p_inputs, p_outputs,
                   p_estimated, p_end_fingerprints) e;
  select a.decisions, a.granted, a.authorized_at, a.daily, a.monthly, a.total
    into decisions, granted, authorized_at, daily, monthly, total
    from authorize_holds(p_accounts, p_children, p_child_account, p_ids, p_parts, p_child,
      p_amounts, p_floors, p_versions, p_seconds, p_fingerprints, p_models, p_prices, p_own, p_gateway) a;
end $function$

CREATE OR REPLACE FUNCTION public.end_holds(p_accounts uuid[], p_ids uuid[], p_account integer[], p_kinds smallint[], p_costs bigint[], p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_fingerprints bigint[], OUT decisions text, OUT costs text, OUT usage_seqs text, OUT ended_at text)
 RETURNS record
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  c_loss constant uuid := '00000000-0000-0000-0000-000000000003';
  c_upstream_cost constant uuid := '00000000-0000-0000-0000-000000000004';
  n int := cardinality(p_ids);
  -- per account
  a_n int := cardinality(p_accounts);
  a_now timestamptz[] := array_fill(null::timestamptz, array[a_n]);
  a_seq bigint[] := array_fill(0::bigint, array[a_n]);
  a_release bigint[] := array_fill(0::bigint, array[a_n]);
  a_accrue bigint[] := array_fill(0::bigint, array[a_n]);
  -- per item
  i_result smallint[] := array_fill(0::smallint, array[n]);
  i_cost bigint[] := p_costs;
  i_left bigint[] := array_fill(0::bigint, array[n]);
  i_held bigint[] := array_fill(0::bigint, array[n]);
  i_seq bigint[] := array_fill(null::bigint, array[n]);
  i_input bigint[] := p_inputs;
  i_output bigint[] := p_outputs;
  i_estimated boolean[] := p_estimated;
  i_at timestamptz[] := array_fill(null::timestamptz, array[n]);
  -- per part of a hold
  w_tid tid[] := '{}';
  w_item int[] := '{}';
  w_part smallint[] := '{}';
  w_child uuid[] := '{}';
  w_amount bigint[] := '{}';
  w_cost bigint[] := '{}';
  w_seq bigint[] := '{}';
  w int := 0;
  r record;
  i int := 1;
  ai int;
  part_cost bigint;
begin
  for r in select a.id, a.usage_seq, greatest(keytoll_clock(), a.last_at + interval '1 microsecond') as at
             from account a where a.id = any (p_accounts) order by a.id for no key update loop
    while p_accounts[i] <> r.id loop i := i + 1; end loop;
    a_now[i] := r.at;
    a_seq[i] := r.usage_seq;
  end loop;

  for r in select q.o, h.ctid as tid, h.part, h.child_key_id, h.amount, h.deadline, h.checkpoint_cost, h.checkpoint_input,
                  h.checkpoint_output, h.gateway_id
             from unnest(p_ids, p_account) with ordinality q(id, a, o),
                  lateral (select o.ctid, o.* from open_hold o
                            where o.account_id = p_accounts[q.a] and o.id = q.id order by o.part) h loop
    i := r.o;
    if r.part = 0 and p_kinds[i] = 4 then
      if r.deadline > a_now[p_account[i]] and not gateway_lapsed(r.gateway_id) then
        i_result[i] := 9;
      elsif r.checkpoint_cost is not null then
        i_result[i] := 1;
        i_cost[i] := r.checkpoint_cost;
        i_input[i] := r.checkpoint_input;
        i_output[i] := r.checkpoint_output;
        i_estimated[i] := true;
      else
        i_result[i] := 2;
      end if;
    elsif r.part = 0 then
      i_result[i] := case p_kinds[i] when 3 then 2 else 1 end;
    end if;
    continue when i_result[i] = 9;
    w := w + 1;
    w_tid[w] := r.tid;
    w_item[w] := i;
    w_part[w] := r.part;
    w_child[w] := r.child_key_id;
    w_amount[w] := r.amount;
    i_held[i] := i_held[i] + r.amount;
  end loop;

  for i in 1..n loop
    ai := p_account[i];
    i_at[i] := a_now[ai];
    if i_result[i] = 0 then
      i_result[i] := 6;
      for r in select e.outcome, e.end_fingerprint, e.request_cost, e.usage_seq, e.ended_at from ended_hold e
                where e.account_id = p_accounts[ai] and e.id = p_ids[i] and e.part = 0 loop
        i_seq[i] := r.usage_seq;
        i_at[i] := r.ended_at;
        i_result[i] := case
          when r.outcome <> 'captured' then case when p_kinds[i] in (3, 4) then 4 else 5 end
          when p_kinds[i] in (3, 4) then 5
          when r.end_fingerprint = p_fingerprints[i] then 3
          else 8 end;
        if i_result[i] = 3 then i_cost[i] := r.request_cost; end if;
      end loop;
      if i_result[i] = 5 and p_kinds[i] = 2 and i_cost[i] > 0 then
        insert into transfer values (new_id(a_now[ai]), c_loss, c_upstream_cost, i_cost[i], 'loss',
          p_accounts[ai] || '/' || p_ids[i], a_now[ai]) on conflict do nothing;
      end if;
    elsif i_result[i] = 1 then
      if i_cost[i] > i_held[i] then
        if p_kinds[i] = 1 then
          i_result[i] := 7;
          continue;
        end if;
        insert into transfer values (new_id(a_now[ai]), c_loss, c_upstream_cost, i_cost[i] - i_held[i], 'loss',
          p_accounts[ai] || '/' || p_ids[i], a_now[ai]) on conflict do nothing;
        i_cost[i] := i_held[i];
      end if;
      a_seq[ai] := a_seq[ai] + 1;
      i_seq[i] := a_seq[ai];
      i_left[i] := i_cost[i];
      a_release[ai] := a_release[ai] + i_held[i];
      a_accrue[ai] := a_accrue[ai] + i_cost[i];
    elsif i_result[i] = 2 then
      i_cost[i] := 0;
      a_release[ai] := a_release[ai] + i_held[i];
    end if;
  end loop;

  for i in 1..w loop
    part_cost := least(w_amount[i], i_left[w_item[i]]);
    i_left[w_item[i]] := i_left[w_item[i]] - part_cost;
    w_cost[i] := part_cost;
    w_seq[i] := case when w_part[i] = 0 and i_result[w_item[i]] = 1 then i_seq[w_item[i]] end;
    if i_result[w_item[i]] not in (1, 2) then w_tid[i] := null; end if;
  end loop;

  insert into ended_hold
    select h.account_id, h.id, h.part, h.child_key_id, h.amount, q.cost,
           (case when i_result[q.item] = 1 then 'captured' when p_kinds[q.item] = 4 then 'swept' else 'voided' end)::hold_outcome,
           h.day, h.month, h.authorized_at, a_now[p_account[q.item]], h.fingerprint, p_fingerprints[q.item],
           h.model, h.price_version, q.seq, case when q.seq is not null then i_cost[q.item] end,
           case when q.seq is not null then i_input[q.item] end,
           case when q.seq is not null then i_output[q.item] end,
           case when q.seq is not null then i_estimated[q.item] end
      from unnest(w_tid, w_item, w_cost, w_seq) q(tid, item, cost, seq), lateral (select * from open_hold o where o.ctid = q.tid) h
     where q.tid is not null;

  update child_key c
     set used_daily = c.used_daily - s.day_back,
         used_monthly = c.used_monthly - s.month_back,
         used_total = c.used_total - s.back,
         held = c.held - s.held,
         requests_total = c.requests_total + s.requests,
         last_used_at = case when s.requests > 0 then greatest(c.last_used_at, s.at) else c.last_used_at end
    from (select h.child_key_id as id, sum(q.amount) as held, sum(q.amount - q.cost) as back,
                 coalesce(sum(q.amount - q.cost) filter (where h.day = k.day), 0) as day_back,
                 coalesce(sum(q.amount - q.cost) filter (where h.month = k.month), 0) as month_back,
                 count(q.seq) as requests, max(a_now[p_account[q.item]]) as at
            from unnest(w_tid, w_item, w_amount, w_cost, w_seq) q(tid, item, amount, cost, seq),
                 lateral (select o.child_key_id, o.day, o.month from open_hold o where o.ctid = q.tid) h,
                 lateral (select x.day, x.month from child_key x where x.id = h.child_key_id) k
           where q.tid is not null group by h.child_key_id) s
   where c.id = s.id;

  delete from open_hold where ctid = any (w_tid);

  update account a set held = a.held - s.release, accrued = a.accrued + s.accrue, usage_seq = s.seq, last_at = s.at
    from unnest(p_accounts, a_release, a_accrue, a_seq, a_now) s(id, release, accrue, seq, at)
   where a.id = s.id and s.release > 0;

  decisions := array_to_string(i_result, ',');
  costs := array_to_string(i_cost, ',', '');
  usage_seqs := array_to_string(i_seq, ',', '');
  ended_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                      from unnest(i_at) with ordinality u(t, o) order by o), ',', '');
end $function$

CREATE OR REPLACE FUNCTION public.ensure_hold_partitions(p_ahead integer)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
declare
  v_month timestamp;
  v_name text;
  v_made int := 0;
begin
  perform pg_advisory_xact_lock(hashtext('ensure_hold_partitions'));
  for n in -1..p_ahead loop
    v_month := date_trunc('month', keytoll_clock() at time zone 'UTC') + make_interval(months => n);
    v_name := 'ended_hold_' || to_char(v_month, 'YYYY_MM');
    continue when to_regclass(v_name) is not null;
    execute format('create table %I partition of ended_hold for values from (%L) to (%L)', v_name,
      first_id_of(v_month at time zone 'UTC'),
      first_id_of((v_month + interval '1 month') at time zone 'UTC'));
    v_made := v_made + 1;
  end loop;
  return v_made;
end $function$

CREATE OR REPLACE FUNCTION public.extend_holds(p_accounts uuid[], p_ids uuid[], p_account integer[], p_seconds integer[], p_costs bigint[], p_inputs bigint[], p_outputs bigint[])
 RETURNS text
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_answer text;
begin
  perform 1 from account a where a.id = any (p_accounts) order by a.id for no key update;
  with moved as (
    update open_hold h
       set deadline = greatest(h.deadline, keytoll_clock() + make_interval(secs => q.seconds)),
           checkpoint_cost = coalesce(q.cost, h.checkpoint_cost),
           checkpoint_input = coalesce(q.input, h.checkpoint_input),
           checkpoint_output = coalesce(q.output, h.checkpoint_output)
      from unnest(p_ids, p_account, p_seconds, p_costs, p_inputs, p_outputs) with ordinality
           q(id, a, seconds, cost, input, output, o)
     where h.account_id = p_accounts[q.a] and h.id = q.id
    returning q.o, h.part, h.deadline)
  select string_agg(coalesce((extract(epoch from m.deadline) * 1000000)::bigint::text, ''), ',' order by o.o)
    into v_answer
    from generate_subscripts(p_ids, 1) o(o) left join moved m on m.o = o.o and m.part = 0;
  return v_answer;
end $function$

CREATE OR REPLACE FUNCTION public.first_id_of(at timestamp with time zone)
 RETURNS uuid
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$function$

CREATE OR REPLACE FUNCTION public.gateway_lapsed(p_gateway uuid)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
  select p_gateway is not null and not exists (
    select 1 from gateway g where g.id = p_gateway and g.seen_at > keytoll_clock() - interval '60 seconds')
$function$

CREATE OR REPLACE FUNCTION public.keytoll_clock()
 RETURNS timestamp with time zone
 LANGUAGE sql
AS $function$ select clock_timestamp() $function$

CREATE OR REPLACE FUNCTION public.lock_accounts(p_accounts uuid[])
 RETURNS TABLE(id uuid, at timestamp with time zone, status text, posted bigint, held bigint, accrued bigint)
 LANGUAGE sql
AS $function$
  select a.id, date_trunc('milliseconds', greatest(keytoll_clock(), a.last_at)) + interval '1 millisecond', a.status, a.posted, a.held, a.accrued
    from account a where a.id = any (p_accounts) order by a.id for no key update
$function$

CREATE OR REPLACE FUNCTION public.new_id(at timestamp with time zone)
 RETURNS uuid
 LANGUAGE sql
AS $function$
  select (substr(first_id_of(at)::text, 1, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid
$function$

CREATE OR REPLACE FUNCTION public.post_hash(p_previous bytea, p_account uuid, p_no bigint, p_from bigint, p_to bigint, p_amount bigint, p_digest bytea)
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select sha256(p_previous || convert_to(concat_ws('|', p_account, p_no, p_from, p_to, p_amount), 'UTF8') || p_digest)
$function$

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $function$

CREATE OR REPLACE FUNCTION public.settle_account(p_account uuid, p_max integer, OUT records bigint, OUT amount bigint, OUT behind bigint)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  c_revenue constant uuid := '00000000-0000-0000-0000-000000000002';
  v_from bigint;
  v_to bigint;
  v_digest bytea;
  v_transfer uuid;
  v_hash bytea;
  a record;
begin
  -- the records are immutable, so they are summed before the lock is taken
  select x.settled_seq + 1, least(x.usage_seq, x.settled_seq + p_max) into v_from, v_to from account x where x.id = p_account;
  if v_to is null or v_to < v_from then
    records := 0; amount := 0; behind := 0;
    return;
  end if;
  select u.records, u.amount, u.digest into records, amount, v_digest from usage_digest(p_account, v_from, v_to) u;
  if records <> v_to - v_from + 1 then
    raise exception 'usage of account % has a gap between % and %', p_account, v_from, v_to;
  end if;

  select x.settled_seq, x.usage_seq, x.post_no, x.chain,
         greatest(keytoll_clock(), x.last_at + interval '1 microsecond') as at
    into a from account x where x.id = p_account for no key update;
  behind := a.usage_seq - v_to;
  if a.settled_seq <> v_from - 1 then     -- somebody else settled it meanwhile
    records := 0; amount := 0;
    return;
  end if;
  if amount > 0 then
    v_transfer := new_id(a.at);
    insert into transfer values (v_transfer, p_account, c_revenue, amount, 'settlement',
      p_account || '/' || (a.post_no + 1), a.at);
  end if;
  v_hash := post_hash(a.chain, p_account, a.post_no + 1, v_from, v_to, amount, v_digest);
  insert into settlement_post values (p_account, a.post_no + 1, v_from, v_to, amount, v_transfer, a.chain, v_hash, a.at);
  update account x set posted = x.posted - settle_account.amount, accrued = x.accrued - settle_account.amount,
                       settled_seq = v_to, post_no = x.post_no + 1, chain = v_hash, last_at = a.at
   where x.id = p_account;
end $function$

CREATE OR REPLACE FUNCTION public.shard_of(account uuid)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
AS $function$ select get_byte(uuid_send(account), 15) % 4 $function$

CREATE OR REPLACE FUNCTION public.sweep_holds(p_limit integer, p_grace interval DEFAULT '00:00:45'::interval, OUT captured integer, OUT voided integer)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare
  v_clock timestamptz := keytoll_clock();
  v_lapsed uuid[];
  v_holders uuid[];
  v_accounts uuid[];
  v_ids uuid[];
  v_nothing bigint[];
  v_decisions text;
begin
  captured := 0;
  voided := 0;
  if pg_postmaster_start_time() + p_grace > clock_timestamp() then return; end if;
  select array_agg(g.id) into v_lapsed from gateway g where g.seen_at <= v_clock - interval '60 seconds';
  select array_agg(d.account_id), array_agg(d.id) into v_holders, v_ids from (
    (select h.account_id, h.id from open_hold h
      where h.part = 0 and h.deadline <= v_clock order by h.deadline limit p_limit)
    union
    (select h.account_id, h.id from open_hold h
      where h.part = 0 and h.gateway_id = any (v_lapsed) and v_lapsed is not null limit p_limit)) d;
  if v_ids is not null then
    select array_agg(distinct a order by a) into v_accounts from unnest(v_holders) a;
    v_nothing := array_fill(0::bigint, array[cardinality(v_ids)]);
    select e.decisions into v_decisions
      from end_holds(v_accounts, v_ids,
                     array(select array_position(v_accounts, h.a) from unnest(v_holders) with ordinality h(a, o) order by h.o),
                     array_fill(4::smallint, array[cardinality(v_ids)]), v_nothing, v_nothing, v_nothing,
                     array_fill(true, array[cardinality(v_ids)]), v_nothing) e;
    select count(*) filter (where d = '1'), count(*) filter (where d = '2') into captured, voided
      from unnest(string_to_array(v_decisions, ',')) d;
  end if;
  delete from gateway g
   where g.id = any (v_lapsed) and not exists (select 1 from open_hold h where h.gateway_id = g.id);
end $function$

CREATE OR REPLACE FUNCTION public.usage_digest(p_account uuid, p_from bigint, p_to bigint, OUT records bigint, OUT amount bigint, OUT digest bytea)
 RETURNS record
 LANGUAGE sql
 STABLE
AS $function$
  select count(*), coalesce(sum(h.request_cost), 0)::bigint,
         sha256(convert_to(coalesce(string_agg(usage_line(h), E'\n' order by h.usage_seq), ''), 'UTF8'))
    from ended_hold h
   where h.account_id = p_account and h.usage_seq between p_from and p_to
$function$

CREATE OR REPLACE FUNCTION public.usage_line(h ended_hold)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
  select concat_ws('|', h.usage_seq, h.id, h.child_key_id, coalesce(h.model, ''), coalesce(h.price_version, 0),
    coalesce(h.input_tokens, 0), coalesce(h.output_tokens, 0), h.request_cost, coalesce(h.estimated, false),
    h.day, h.month, (extract(epoch from h.authorized_at) * 1000000)::bigint, (extract(epoch from h.ended_at) * 1000000)::bigint)
$function$
