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

create table account_rate (
  account_id uuid not null,
  rate_limit_rpm integer,
  concurrency integer,
  updated_at timestamp with time zone not null,
  constraint account_rate_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint account_rate_concurrency_check CHECK ((concurrency >= 0)),
  constraint account_rate_pkey PRIMARY KEY (account_id),
  constraint account_rate_rate_limit_rpm_check CHECK ((rate_limit_rpm >= 0))
);

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
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.audit_event FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER tell AFTER INSERT ON public.audit_event REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tell_of_audit();

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
) with (fillfactor=75);
CREATE INDEX child_key_expiry ON public.child_key USING btree (expires_at) WHERE ((expires_at IS NOT NULL) AND (status <> 'deleted'::key_status) AND (expiry_recorded IS DISTINCT FROM expires_at));
CREATE INDEX child_key_grace ON public.child_key USING btree (previous_secret_until);
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
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.child_limit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

create table detached_account (
  account_id uuid not null,
  through timestamp with time zone not null,
  usage_seq bigint not null,
  records bigint not null,
  constraint detached_account_pkey PRIMARY KEY (account_id)
);

create table detached_child (
  child_key_id uuid not null,
  account_id uuid not null,
  day date not null,
  used_daily bigint not null,
  month date not null,
  used_monthly bigint not null,
  used_total bigint not null,
  requests bigint not null,
  constraint detached_child_pkey PRIMARY KEY (child_key_id)
);

create table detached_partition (
  name text not null,
  detached_at timestamp with time zone not null default keytoll_clock(),
  holds bigint not null,
  proof_no bigint not null,
  constraint detached_partition_pkey PRIMARY KEY (name),
  constraint detached_partition_proof_no_fkey FOREIGN KEY (proof_no) REFERENCES proof(no)
);

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
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.ended_hold FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
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

create view house_balance as
 SELECT id,
    name,
    (COALESCE(( SELECT sum(t.amount) AS sum
           FROM transfer t
          WHERE (t.credit_account = h.id)), (0)::numeric) - COALESCE(( SELECT sum(t.amount) AS sum
           FROM transfer t
          WHERE (t.debit_account = h.id)), (0)::numeric)) AS balance
   FROM house_account h;

create table idempotent_request (
  scope_id uuid not null,
  key_hash bytea not null,
  route text not null,
  fingerprint bigint not null,
  request_id uuid not null,
  hold_id uuid,
  claimed_at timestamp with time zone not null,
  answered_at timestamp with time zone,
  cost bigint,
  input_tokens bigint,
  output_tokens bigint,
  estimated boolean,
  key_name text,
  sealed bytea,
  constraint idempotent_request_pkey PRIMARY KEY (scope_id, key_hash)
) with (fillfactor=50);
CREATE INDEX idempotent_request_age ON public.idempotent_request USING btree (claimed_at);

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
  cost_fields text not null default 'neutral'::text,
  constraint management_key_access_check CHECK ((access = ANY (ARRAY['read_write'::text, 'read_only'::text]))),
  constraint management_key_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint management_key_cost_fields_check CHECK ((cost_fields = ANY (ARRAY['neutral'::text, 'gonka'::text, 'none'::text]))),
  constraint management_key_pkey PRIMARY KEY (id)
);
CREATE INDEX management_key_account_id_id_idx ON public.management_key USING btree (account_id, id);
CREATE INDEX management_key_expiry ON public.management_key USING btree (expires_at) WHERE ((expires_at IS NOT NULL) AND (status <> 'deleted'::key_status) AND (expiry_recorded IS DISTINCT FROM expires_at));
CREATE INDEX management_key_grace ON public.management_key USING btree (previous_secret_until);

create table model_alias (
  account_id uuid not null,
  alias text not null,
  model text,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  constraint model_alias_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint model_alias_alias_check CHECK ((alias ~ '^[A-Za-z0-9._:/-]{1,200}$'::text)),
  constraint model_alias_pkey PRIMARY KEY (account_id, alias)
);

create table model_price (
  model text not null,
  version integer not null,
  input_per_mtok bigint not null,
  output_per_mtok bigint not null,
  context_tokens integer,
  max_output_tokens integer,
  enabled boolean not null default true,
  since timestamp with time zone not null default keytoll_clock(),
  hold_step_tokens integer,
  image_tokens integer,
  prompt_overhead_tokens integer,
  default_max_tokens integer,
  constraint model_price_context_tokens_check CHECK ((context_tokens > 0)),
  constraint model_price_default_max_tokens_check CHECK ((default_max_tokens > 0)),
  constraint model_price_hold_step_tokens_check CHECK ((hold_step_tokens > 0)),
  constraint model_price_image_tokens_check CHECK ((image_tokens > 0)),
  constraint model_price_input_per_mtok_check CHECK ((input_per_mtok >= 0)),
  constraint model_price_max_output_tokens_check CHECK ((max_output_tokens > 0)),
  constraint model_price_output_per_mtok_check CHECK ((output_per_mtok >= 0)),
  constraint model_price_pkey PRIMARY KEY (model, version),
  constraint model_price_prompt_overhead_tokens_check CHECK ((prompt_overhead_tokens >= 0)),
  constraint model_price_version_check CHECK ((version > 0))
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.model_price FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.model_price FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

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

create table proof (
  no bigint not null generated always as identity,
  taken_at timestamp with time zone not null,
  whole boolean not null,
  id_floor uuid not null,
  rolled_day date not null,
  holds bigint not null,
  digest bytea not null,
  constraint proof_pkey PRIMARY KEY (no)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.proof FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.proof FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

create table proof_account (
  account_id uuid not null,
  through timestamp with time zone not null,
  usage_seq bigint not null,
  settled_seq bigint not null,
  post_no bigint not null,
  chain bytea not null,
  rolled_seq bigint not null,
  constraint proof_account_pkey PRIMARY KEY (account_id)
);

create table proof_child (
  child_key_id uuid not null,
  account_id uuid not null,
  day date not null,
  used_daily bigint not null,
  month date not null,
  used_monthly bigint not null,
  used_total bigint not null,
  requests bigint not null,
  constraint proof_child_pkey PRIMARY KEY (child_key_id)
);

create table reconcile_finding (
  id bigint not null generated always as identity,
  invariant integer not null,
  subject text not null,
  sort text not null,
  reason text not null,
  first_seen timestamp with time zone not null default keytoll_clock(),
  last_seen timestamp with time zone not null default keytoll_clock(),
  resolved_at timestamp with time zone,
  constraint reconcile_finding_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX reconcile_finding_open ON public.reconcile_finding USING btree (invariant, subject, md5(sort)) WHERE (resolved_at IS NULL);

create table reconcile_run (
  day date not null,
  started_at timestamp with time zone not null default keytoll_clock(),
  finished_at timestamp with time zone,
  passes integer not null default 0,
  whole boolean,
  invariants integer,
  records bigint,
  holds bigint,
  differences integer,
  digest text,
  constraint reconcile_run_pkey PRIMARY KEY (day)
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
  marks bytea,
  constraint settlement_post_amount_check CHECK ((amount >= 0)),
  constraint settlement_post_check CHECK ((to_seq >= from_seq)),
  constraint settlement_post_pkey PRIMARY KEY (account_id, no)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.settlement_post FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.settlement_post FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

create table settlement_set_aside (
  account_id uuid not null,
  reason text not null,
  attempts integer not null default 1,
  since timestamp with time zone not null default keytoll_clock(),
  last_at timestamp with time zone not null default keytoll_clock(),
  next_at timestamp with time zone not null,
  settled_at timestamp with time zone,
  constraint settlement_set_aside_pkey PRIMARY KEY (account_id)
);
CREATE INDEX settlement_set_aside_open ON public.settlement_set_aside USING btree (next_at) WHERE (settled_at IS NULL);

create table sweep_pulse (
  one boolean not null default true,
  seen_at timestamp with time zone not null,
  resumed_at timestamp with time zone not null,
  constraint sweep_pulse_pkey PRIMARY KEY (one)
);

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
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.transfer FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

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

create table usage_rolled (
  account_id uuid not null,
  seq bigint not null,
  constraint usage_rolled_pkey PRIMARY KEY (account_id)
);

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
CREATE INDEX usage_rollup_account ON public.usage_rollup USING btree (account_id, day);

create table webhook_delivery (
  id uuid not null,
  endpoint_id uuid not null,
  event_id uuid not null,
  sequence bigint,
  status text not null default 'pending'::text,
  apart boolean not null default false,
  attempts integer not null default 0,
  first_attempt_at timestamp with time zone,
  next_at timestamp with time zone not null,
  last_status integer,
  last_error text,
  delivered_at timestamp with time zone,
  reminded_at timestamp with time zone,
  created_at timestamp with time zone not null,
  constraint webhook_delivery_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES webhook_endpoint(id),
  constraint webhook_delivery_endpoint_id_sequence_key UNIQUE (endpoint_id, sequence),
  constraint webhook_delivery_event_id_fkey FOREIGN KEY (event_id) REFERENCES webhook_event(id),
  constraint webhook_delivery_pkey PRIMARY KEY (id),
  constraint webhook_delivery_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text])))
);
CREATE INDEX webhook_delivery_endpoint_id_id_idx ON public.webhook_delivery USING btree (endpoint_id, id);
CREATE INDEX webhook_delivery_pending ON public.webhook_delivery USING btree (endpoint_id, sequence) WHERE (status = 'pending'::text);

create table webhook_endpoint (
  id uuid not null,
  account_id uuid not null,
  url text not null,
  events text[],
  status text not null default 'active'::text,
  status_reason text,
  disabled_at timestamp with time zone,
  secret_version integer not null default 1,
  last_sequence bigint not null default 0,
  delivered_total bigint not null default 0,
  failed_total bigint not null default 0,
  failing_since timestamp with time zone,
  failures integer not null default 0,
  reminded_at timestamp with time zone,
  created_at timestamp with time zone not null,
  updated_at timestamp with time zone not null,
  constraint webhook_endpoint_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint webhook_endpoint_pkey PRIMARY KEY (id),
  constraint webhook_endpoint_status_check CHECK ((status = ANY (ARRAY['active'::text, 'paused'::text, 'disabled'::text, 'deleted'::text])))
);
CREATE INDEX webhook_endpoint_account_id_id_idx ON public.webhook_endpoint USING btree (account_id, id);

create table webhook_event (
  id uuid not null,
  account_id uuid not null,
  natural_key text not null,
  type text not null,
  data jsonb not null,
  at timestamp with time zone not null,
  constraint webhook_event_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint webhook_event_account_id_natural_key_key UNIQUE (account_id, natural_key),
  constraint webhook_event_pkey PRIMARY KEY (id)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.webhook_event FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON public.webhook_event FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

create table webhook_secret (
  endpoint_id uuid not null,
  version integer not null,
  key_name text not null,
  sealed bytea not null,
  valid_until timestamp with time zone,
  created_at timestamp with time zone not null default keytoll_clock(),
  constraint webhook_secret_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES webhook_endpoint(id),
  constraint webhook_secret_pkey PRIMARY KEY (endpoint_id, version)
);

create table webhook_setting (
  account_id uuid not null,
  balance_low bigint,
  percents integer[] not null default '{50,80,100}'::integer[],
  low_told boolean not null default false,
  depleted_told boolean not null default false,
  constraint webhook_setting_account_id_fkey FOREIGN KEY (account_id) REFERENCES account(id),
  constraint webhook_setting_pkey PRIMARY KEY (account_id)
);

CREATE OR REPLACE FUNCTION public.archive_hold_partition(p_name text, p_patience interval)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  v_until timestamptz := clock_timestamp() + p_patience;
  v_reason text := hold_partition_needed(p_name);
  v_holds bigint;
begin
  if v_reason is not null then raise exception '%', v_reason using errcode = 'object_in_use'; end if;
  execute format('lock table only %I in share mode', p_name);
  v_holds := record_detached_holds(p_name::regclass);
  create schema if not exists archive;
  perform set_config('lock_timeout', '200ms', true);
  loop
    begin
      execute format('alter table ended_hold detach partition %I', p_name);
      exit;
    exception when lock_not_available then
      if clock_timestamp() > v_until then raise; end if;
    end;
    perform pg_sleep(1);
  end loop;
  execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', p_name);
  execute format('alter table %I set schema archive', p_name);
  return v_holds;
end $function$

CREATE OR REPLACE FUNCTION public.authorize_hold(p_account uuid, p_child uuid, p_id uuid, p_part smallint, p_amount bigint, p_floor bigint, p_version integer, p_seconds integer, p_fingerprint bigint, p_model text, p_price integer, p_own boolean, p_gateway uuid, OUT decisions text, OUT granted text, OUT authorized_at text, OUT daily text, OUT monthly text, OUT total text)
 RETURNS record
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  a record;
  c record;
  v_now timestamptz;
  v_day date;
  v_month date;
  v_written int;
begin
  if p_part = 0 and p_amount > 0 then
    select x.status, x.posted - x.accrued - x.held as free, x.last_at into a
      from account x where x.id = p_account for no key update;
    v_now := greatest(keytoll_clock(), a.last_at + interval '1 microsecond');
    v_day := (v_now at time zone 'UTC')::date;
    v_month := date_trunc('month', v_now at time zone 'UTC')::date;

    select k.ctid as tid, k.day, k.month,
           k.limit_daily - case when k.day >= v_day then k.used_daily else 0 end as daily,
           k.limit_monthly - case when k.month >= v_month then k.used_monthly else 0 end as monthly,
           k.limit_total - k.used_total as total
      into c
      from child_key k
      join management_key m on m.id = k.management_key_id
     where k.id = p_child and k.account_id = p_account and k.status = 'active' and m.status = 'active'
       and (k.expires_at is null or k.expires_at > v_now) and (m.expires_at is null or m.expires_at > v_now)
       and (p_version = k.secret_version or p_version = 0)
       and not exists (select 1 from open_hold h where h.account_id = p_account and h.id = p_id)
       and not exists (select 1 from ended_hold e where e.account_id = p_account and e.id = p_id);
    if found and a.status = 'active' and p_amount <= a.free and p_amount <= coalesce(c.daily, p_amount)
      and p_amount <= coalesce(c.monthly, p_amount) and p_amount <= coalesce(c.total, p_amount) then
      update account x set held = x.held + p_amount, last_at = v_now where x.id = p_account;
      update child_key k
         set used_daily = case when k.day >= v_day then k.used_daily else 0 end + p_amount,
             day = greatest(k.day, v_day),
             used_monthly = case when k.month >= v_month then k.used_monthly else 0 end + p_amount,
             month = greatest(k.month, v_month),
             used_total = k.used_total + p_amount,
             held = k.held + p_amount
       where k.ctid = c.tid;
      get diagnostics v_written = row_count;
      if v_written <> 1 then
        raise exception 'a child key was written without the lock of its account' using errcode = 'serialization_failure';
      end if;
      insert into open_hold values (p_account, p_id, 0, p_child, p_amount, v_day, v_month, v_now,
        v_now + make_interval(secs => p_seconds), p_fingerprint, case when p_own then p_gateway end, p_model, p_price);
      authorized_at := (extract(epoch from v_now) * 1000000)::bigint;
      daily := coalesce(c.daily::text, '');
      monthly := coalesce(c.monthly::text, '');
      total := coalesce(c.total::text, '');
      return;
    end if;
  end if;

  select b.* into decisions, granted, authorized_at, daily, monthly, total
    from authorize_holds(array[p_account], array[p_child], array[1], array[p_id],
           case when p_part > 0 then array[p_part] end, array[1], array[p_amount], array[p_floor], array[p_version],
           array[p_seconds], array[p_fingerprint], array[p_model], array[p_price], array[p_own], p_gateway) b;
end $function$

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
  a_ids uuid[];
  a_active boolean[];            -- null: no such account
  a_now timestamptz[];
  a_day date[];
  a_month date[];
  a_free bigint[];               -- available
  a_held bigint[];               -- held before this batch
  a_add bigint[] := array_fill(0::bigint, array[cardinality(p_accounts)]);
  -- per child
  c_status smallint[];           -- 0 may spend, else the decision it gets
  c_tid tid[];
  c_version int[];
  c_grace boolean[];
  c_day bigint[];                -- remaining before this batch, null: no limit
  c_month bigint[];
  c_total bigint[];
  c_most bigint[];               -- least of them, negative for who may not spend
  c_held bigint[];
  c_add bigint[] := array_fill(0::bigint, array[cardinality(p_children)]);
  -- per item, where not all are held as asked
  i_result smallint[];
  i_amount bigint[] := p_amounts;
  v_known boolean;
  v_written bigint;
  v_first uuid;    -- of the batch's ids: only the partitions between them are opened
  v_last uuid;
  r record;
  ci int;
  ai int;
  want bigint;
  most bigint;
  spent bigint;
  v_result int;
begin
  select array_agg(t.id), array_agg(t.active), array_agg(t.at), array_agg((t.at at time zone 'UTC')::date),
         array_agg(date_trunc('month', t.at at time zone 'UTC')::date), array_agg(t.free), array_agg(t.held)
    into a_ids, a_active, a_now, a_day, a_month, a_free, a_held
    from (select x.id, x.status = 'active' as active, x.posted - x.accrued - x.held as free, x.held,
                 greatest(keytoll_clock(), x.last_at + interval '1 microsecond') as at
            from (select a.id, a.status, a.posted, a.accrued, a.held, a.last_at
                    from account a where a.id = any (p_accounts) order by a.id for no key update) x) t;
  if a_ids is distinct from p_accounts then    -- where some are not there, the others keep their places
    select array_agg(a_active[p.at] order by p.o), array_agg(a_now[p.at] order by p.o),
           array_agg(a_day[p.at] order by p.o), array_agg(a_month[p.at] order by p.o),
           array_agg(a_free[p.at] order by p.o), array_agg(a_held[p.at] order by p.o)
      into a_active, a_now, a_day, a_month, a_free, a_held
      from (select u.o, array_position(a_ids, u.id) as at from unnest(p_accounts) with ordinality u(id, o)) p;
  end if;

  -- A counter of a later period than the clock's still counts: a clock that steps back opens nothing again.
  select array_agg(k.tid order by k.o), array_agg(k.status order by k.o), array_agg(k.version order by k.o),
         array_agg(k.grace order by k.o), array_agg(k.daily order by k.o), array_agg(k.monthly order by k.o),
         array_agg(k.total order by k.o), array_agg(k.held order by k.o),
         array_agg(case when k.status = 0
                        then greatest(least(k.daily, k.monthly, k.total, 9223372036854775807), -1) else -1 end order by k.o),
         (select q.id from unnest(p_ids) q(id) order by q.id limit 1),
         (select q.id from unnest(p_ids) q(id) order by q.id desc limit 1)
    into c_tid, c_status, c_version, c_grace, c_day, c_month, c_total, c_held, c_most, v_first, v_last
    from (select u.o, c.ctid as tid,
                 (case
                   when c.id is null or c.account_id <> p_accounts[u.a] or c.status = 'deleted'
                     or a_active[u.a] is null then 5
                   when c.status <> 'active' or m.status <> 'active'
                     or c.expires_at <= a_now[u.a] or m.expires_at <= a_now[u.a] then 6
                   when not a_active[u.a] then 7
                   else 0 end)::smallint as status,
                 coalesce(c.secret_version, 0) as version,
                 coalesce(c.previous_secret_until > a_now[u.a], false) as grace,
                 c.limit_daily - case when c.day >= a_day[u.a] then c.used_daily else 0 end as daily,
                 c.limit_monthly - case when c.month >= a_month[u.a] then c.used_monthly else 0 end as monthly,
                 c.limit_total - c.used_total as total,
                 coalesce(c.held, 0) as held
            from unnest(p_children, p_child_account) with ordinality u(id, a, o)
            left join child_key c on c.id = u.id
            left join management_key m on m.id = c.management_key_id) k;

  -- Nearly always no id is known.
  select exists (select 1 from open_hold h where h.account_id = any (p_accounts) and h.id = any (p_ids))
      or exists (select 1 from ended_hold e where e.account_id = any (p_accounts) and e.id = any (p_ids)
           and e.id between v_first and v_last)
    into v_known;
  if v_known or p_parts is not null then
    i_result := array_fill(1::smallint, array[n]);
    -- Scalar sub-selects stay index probes whatever the statistics say.
    for r in select * from (
               select q.o, p_fingerprints[q.o] as asked,
                      (select array[h.fingerprint, h.amount] from open_hold h
                        where h.account_id = p_accounts[p_child_account[q.child]] and h.id = q.id
                          and h.part = coalesce(q.part, 0)) as open,
                      (select array[e.fingerprint, e.amount] from ended_hold e
                        where e.account_id = p_accounts[p_child_account[q.child]] and e.id = q.id
                          and e.part = coalesce(q.part, 0) and e.id between v_first and v_last) as ended,
                      q.part > 0 and not exists (
                        select 1 from open_hold h
                         where h.account_id = p_accounts[p_child_account[q.child]] and h.id = q.id and h.part = 0
                           and h.child_key_id = p_children[q.child]) as orphan
                 from unnest(p_ids, p_parts, p_child) with ordinality q(id, part, child, o)) f
              where f.open is not null or f.ended is not null or f.orphan loop
      if coalesce(r.open, r.ended) is null then
        i_result[r.o] := 8;
        continue;
      end if;
      i_result[r.o] := case when (coalesce(r.open, r.ended))[1] <> r.asked then 4 when r.open is not null then 2 else 3 end;
      i_amount[r.o] := (coalesce(r.open, r.ended))[2];   -- what was granted then
    end loop;
  end if;

  for i in 1..n loop
    ci := p_child[i];
    ai := p_child_account[ci];
    want := p_amounts[i];
    if c_add[ci] <= c_most[ci] - want and a_add[ai] <= a_free[ai] - want
      and (p_versions[i] = c_version[ci] or p_versions[i] = 0) and (i_result is null or i_result[i] = 1) then
      c_add[ci] := c_add[ci] + want;
      a_add[ai] := a_add[ai] + want;
      continue;
    end if;

    i_result := coalesce(i_result, array_fill(1::smallint, array[n]));
    continue when i_result[i] between 2 and 4;
    if c_status[ci] > 0 then
      i_result[i] := c_status[ci];
      continue;
    elsif p_versions[i] > 0 and p_versions[i] <> c_version[ci]
      and not (p_versions[i] = c_version[ci] - 1 and c_grace[ci]) then
      i_result[i] := 6;
      continue;
    end if;
    continue when i_result[i] = 8;
    spent := c_add[ci];
    most := least(a_free[ai] - a_add[ai], c_day[ci] - spent, c_month[ci] - spent, c_total[ci] - spent);
    if want > most and p_floors[i] > 0 and p_floors[i] <= most then
      want := greatest(p_floors[i], most / 2);
      i_amount[i] := want;
    end if;
    -- what this batch took is open too, so that only what was there before it is compared
    v_result := case
      when want > c_day[ci] - spent then case when want > c_day[ci] + c_held[ci] then 10 else 20 end
      when want > c_month[ci] - spent then case when want > c_month[ci] + c_held[ci] then 11 else 21 end
      when want > c_total[ci] - spent then case when want > c_total[ci] + c_held[ci] then 12 else 22 end
      when want > a_free[ai] - a_add[ai] then case when want > a_free[ai] + a_held[ai] then 13 else 23 end
      else 1 end;
    i_result[i] := v_result;
    if v_result = 1 then
      c_add[ci] := c_add[ci] + want;
      a_add[ai] := a_add[ai] + want;
    end if;
  end loop;

  update account a set held = a.held + s.more, last_at = s.at
    from unnest(p_accounts, a_add, a_now) s(id, more, at) where a.id = s.id and s.more > 0;

  update child_key c
     set used_daily = case when c.day >= a_day[s.a] then c.used_daily else 0 end + s.more,
         day = greatest(c.day, a_day[s.a]),
         used_monthly = case when c.month >= a_month[s.a] then c.used_monthly else 0 end + s.more,
         month = greatest(c.month, a_month[s.a]),
         used_total = c.used_total + s.more,
         held = c.held + s.more
    from unnest(c_tid, p_child_account, c_add) s(tid, a, more) where c.ctid = s.tid and s.more > 0;
  get diagnostics v_written = row_count;
  if v_written <> (select count(*) from unnest(c_add) u where u > 0) then
    raise exception 'a child key was written without the lock of its account' using errcode = 'serialization_failure';
  end if;

  insert into open_hold
    select p_accounts[p_child_account[q.child]], q.id, coalesce(q.part, 0), p_children[q.child], q.amount,
           a_day[p_child_account[q.child]], a_month[p_child_account[q.child]],
           a_now[p_child_account[q.child]], a_now[p_child_account[q.child]] + make_interval(secs => q.seconds),
           q.fingerprint, case when q.own then p_gateway end, q.model, q.price
      from unnest(p_ids, p_parts, p_child, i_amount, p_seconds, p_fingerprints, p_models, p_prices, p_own, i_result)
           q(id, part, child, amount, seconds, fingerprint, model, price, own, result)
     where q.result = 1 or i_result is null;

  if i_result is not null then
    decisions := array_to_string(i_result, ',');
    granted := array_to_string(i_amount, ',');
  end if;
  authorized_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                           from unnest(a_now) with ordinality u(t, o) order by o), ',', '');
  daily := array_to_string(c_day, ',', '');
  monthly := array_to_string(c_month, ',', '');
  total := array_to_string(c_total, ',', '');
end $function$

CREATE OR REPLACE FUNCTION public.balance_low_of(p_account uuid)
 RETURNS bigint
 LANGUAGE sql
 STABLE
AS $function$
  select coalesce((select s.balance_low from webhook_setting s where s.account_id = p_account),
                  (select t.amount / 10 from transfer t where t.credit_account = p_account and t.kind = 'credit'
                    order by t.id desc limit 1), 0)
$function$

CREATE OR REPLACE FUNCTION public.changed_records(p_account uuid, p_no bigint)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
  select string_agg(c.problem, ', ' order by c.seq) from (
    select s.seq, case when h.id is null then format('record %s is gone', s.seq)
                       else format('record %s (hold %s) was changed', s.seq, h.id) end as problem
      from settlement_post p
     cross join lateral generate_series(p.from_seq, p.to_seq) s(seq)
      left join ended_hold h on h.account_id = p.account_id and h.usage_seq = s.seq
     where p.account_id = p_account and p.no = p_no and p.marks is not null
       and usage_mark(h) is distinct from substr(p.marks, ((s.seq - p.from_seq) * 4)::int + 1, 4)
     order by s.seq limit 20) c
$function$

CREATE OR REPLACE FUNCTION public.claim_requests(p_accounts uuid[], p_scopes uuid[], p_hashes text[], p_routes text[], p_fingerprints bigint[], p_requests uuid[], p_holds uuid[])
 RETURNS TABLE(item integer, state text, request_id uuid, hold_id uuid, captured boolean, cost bigint, input_tokens bigint, output_tokens bigint, estimated boolean, key_name text, sealed bytea)
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$

CREATE OR REPLACE FUNCTION public.end_and_authorize(p_all_accounts uuid[], p_end_accounts uuid[], p_end_ids uuid[], p_end_account integer[], p_kinds smallint[], p_costs bigint[], p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_end_fingerprints bigint[], p_accounts uuid[], p_children uuid[], p_child_account integer[], p_ids uuid[], p_parts smallint[], p_child integer[], p_amounts bigint[], p_floors bigint[], p_versions integer[], p_seconds integer[], p_fingerprints bigint[], p_models text[], p_prices integer[], p_own boolean[], p_gateway uuid, OUT end_decisions text, OUT costs text, OUT usage_seqs text, OUT ended_at text, OUT held text, OUT decisions text, OUT granted text, OUT authorized_at text, OUT daily text, OUT monthly text, OUT total text)
 RETURNS record
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_ended record;
  v_opened record;
begin
  perform 1 from account a where a.id = any (p_all_accounts) order by a.id for no key update;
  v_ended := end_holds(p_end_accounts, p_end_ids, p_end_account, p_kinds, p_costs, p_inputs, p_outputs,
                 p_estimated, p_end_fingerprints);
  v_opened := authorize_holds(p_accounts, p_children, p_child_account, p_ids, p_parts, p_child,
    p_amounts, p_floors, p_versions, p_seconds, p_fingerprints, p_models, p_prices, p_own, p_gateway);
  end_decisions := v_ended.decisions;
  costs := v_ended.costs;
  usage_seqs := v_ended.usage_seqs;
  ended_at := v_ended.ended_at;
  held := v_ended.held;
  decisions := v_opened.decisions;
  granted := v_opened.granted;
  authorized_at := v_opened.authorized_at;
  daily := v_opened.daily;
  monthly := v_opened.monthly;
  total := v_opened.total;
end $function$

CREATE OR REPLACE FUNCTION public.end_hold(p_account uuid, p_id uuid, p_kind smallint, p_cost bigint, p_input bigint, p_output bigint, p_estimated boolean, p_fingerprint bigint, OUT decisions text, OUT costs text, OUT usage_seqs text, OUT ended_at text, OUT held text)
 RETURNS record
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  a record;
  h record;
  v_now timestamptz;
  v_seq bigint;                  -- null: no usage
  v_written int;
begin
  select x.usage_seq, x.last_at into a from account x where x.id = p_account for no key update;
  -- The last part is the first one: there is no other
  select o.ctid as tid, o.* into h from open_hold o
   where o.account_id = p_account and o.id = p_id order by o.part desc limit 1;
  if h.part = 0 and h.amount > 0 and (p_kind < 3 and p_cost <= h.amount or p_kind = 3 and p_cost = 0) then
    v_now := greatest(keytoll_clock(), a.last_at + interval '1 microsecond');
    if p_kind < 3 then
      v_seq := a.usage_seq + 1;
    end if;
    insert into ended_hold values (p_account, p_id, 0, h.child_key_id, h.amount, p_cost,
      case when p_kind = 3 then 'voided'::hold_outcome else 'captured' end, h.day, h.month, h.authorized_at, v_now,
      h.fingerprint, p_fingerprint, h.model, h.price_version, v_seq, case when p_kind < 3 then p_cost end,
      case when p_kind < 3 then p_input end, case when p_kind < 3 then p_output end,
      case when p_kind < 3 then p_estimated end);
    update child_key k
       set used_daily = k.used_daily - case when k.day = h.day then h.amount - p_cost else 0 end,
           used_monthly = k.used_monthly - case when k.month = h.month then h.amount - p_cost else 0 end,
           used_total = k.used_total - (h.amount - p_cost),
           held = k.held - h.amount,
           requests_total = k.requests_total + case when p_kind < 3 then 1 else 0 end,
           last_used_at = case when p_kind < 3 then greatest(k.last_used_at, v_now) else k.last_used_at end
     where k.id = h.child_key_id;
    get diagnostics v_written = row_count;
    if v_written <> 1 then
      raise exception 'a child key was written without the lock of its account' using errcode = 'serialization_failure';
    end if;
    delete from open_hold o where o.ctid = h.tid;
    update account x
       set held = x.held - h.amount, accrued = x.accrued + p_cost, usage_seq = coalesce(v_seq, x.usage_seq),
           last_at = v_now
     where x.id = p_account;
    usage_seqs := coalesce(v_seq::text, '');
    ended_at := (extract(epoch from v_now) * 1000000)::bigint;
    held := h.amount;
    return;
  end if;

  select b.* into decisions, costs, usage_seqs, ended_at, held
    from end_holds(array[p_account], array[p_id], array[1], array[p_kind], array[p_cost], array[p_input],
           array[p_output], array[p_estimated], array[p_fingerprint]) b;
end $function$

CREATE OR REPLACE FUNCTION public.end_holds(p_accounts uuid[], p_ids uuid[], p_account integer[], p_kinds smallint[], p_costs bigint[], p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_fingerprints bigint[], OUT decisions text, OUT costs text, OUT usage_seqs text, OUT ended_at text, OUT held text)
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
  a_ids uuid[];
  a_now timestamptz[];
  a_seq bigint[];
  a_release bigint[] := array_fill(0::bigint, array[cardinality(p_accounts)]);
  a_accrue bigint[] := a_release;
  -- per item
  i_result smallint[];           -- null: all as asked, each with one part
  i_cost bigint[] := p_costs;
  i_left bigint[];
  i_held bigint[];
  i_seq bigint[];
  i_input bigint[] := p_inputs;
  i_output bigint[] := p_outputs;
  i_estimated boolean[] := p_estimated;
  i_at timestamptz[];
  -- per part of a hold, by item and part
  w_tid tid[];
  w_item int[];
  w_part smallint[];
  w_child uuid[];
  w_amount bigint[];
  w_cost bigint[];
  w_seq bigint[];
  v_plain boolean;
  v_written bigint;
  r record;
  i int;
  ai int;
  part_cost bigint;
begin
  select array_agg(t.id), array_agg(t.usage_seq),
         array_agg(greatest(keytoll_clock(), t.last_at + interval '1 microsecond'))
    into a_ids, a_seq, a_now
    from (select a.id, a.usage_seq, a.last_at
            from account a where a.id = any (p_accounts) order by a.id for no key update) t;
  if a_ids is distinct from p_accounts then    -- where some are not there, the others keep their places
    select array_agg(a_seq[p.at] order by p.o), array_agg(a_now[p.at] order by p.o) into a_seq, a_now
      from (select u.o, array_position(a_ids, u.id) as at from unnest(p_accounts) with ordinality u(id, o)) p;
  end if;

  select array_agg(s.tid order by s.o, s.part), array_agg(s.o order by s.o, s.part), array_agg(s.part order by s.o, s.part),
         array_agg(s.amount order by s.o, s.part), array_agg(s.child order by s.o, s.part), bool_and(s.part = 0 and (s.kind < 3 and s.cost <= s.amount or s.kind = 3 and s.cost = 0))
    into w_tid, w_item, w_part, w_amount, w_child, v_plain
    from (select q.o, h.ctid as tid, h.part, h.amount, h.child_key_id as child, q.kind, q.cost
            from unnest(p_ids, p_account, p_kinds, p_costs) with ordinality q(id, a, kind, cost, o),
                 lateral (select o.ctid, o.part, o.amount, o.child_key_id from open_hold o where o.account_id = p_accounts[q.a] and o.id = q.id) h) s;

  if v_plain and cardinality(w_item) = n then
    i_seq := p_costs;
    for i in 1..n loop
      ai := p_account[i];
      a_release[ai] := a_release[ai] + w_amount[i];
      if p_kinds[i] < 3 then
        a_seq[ai] := a_seq[ai] + 1;
        a_accrue[ai] := a_accrue[ai] + p_costs[i];
        i_seq[i] := a_seq[ai];
      else
        i_seq[i] := null;
      end if;
    end loop;
    i_held := w_amount;
    w_cost := p_costs;
    w_seq := i_seq;
  else
    i_result := array_fill(0::smallint, array[n]);
    i_held := array_fill(null::bigint, array[n]);
    i_left := array_fill(0::bigint, array[n]);
    i_seq := array_fill(null::bigint, array[n]);
    i_at := array_fill(null::timestamptz, array[n]);
    for r in select u.w, u.item, h.part, h.amount, h.deadline, h.checkpoint_cost, h.checkpoint_input, h.checkpoint_output, h.gateway_id
               from unnest(w_tid, w_item) with ordinality u(tid, item, w), lateral (select * from open_hold o where o.ctid = u.tid) h
              order by u.w loop
      i := r.item;
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
      if i_result[i] = 9 then
        w_tid[r.w] := null;
      else
        i_held[i] := coalesce(i_held[i], 0) + r.amount;
      end if;
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
          if i_result[i] = 3 then
            i_cost[i] := r.request_cost;
            i_held[i] := (select sum(e.amount) from ended_hold e
                           where e.account_id = p_accounts[ai] and e.id = p_ids[i]);
          end if;
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

    for w in 1..coalesce(cardinality(w_tid), 0) loop
      i := w_item[w];
      part_cost := least(w_amount[w], i_left[i]);
      i_left[i] := i_left[i] - part_cost;
      w_cost[w] := part_cost;
      w_seq[w] := case when w_part[w] = 0 and i_result[i] = 1 then i_seq[i] end;
      if i_result[i] not in (1, 2) then w_tid[w] := null; end if;
    end loop;
  end if;

  insert into ended_hold
    select h.account_id, h.id, h.part, h.child_key_id, h.amount, q.cost,
           (case when p_kinds[q.item] = 3 then 'voided' when p_kinds[q.item] = 4 and i_result[q.item] = 2 then 'swept'
                 else 'captured' end)::hold_outcome,
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
    from (select k.ctid as tid, sum(q.amount) as held, sum(q.amount - q.cost) as back,
                 sum(case when h.day = k.day then q.amount - q.cost else 0 end) as day_back,
                 sum(case when h.month = k.month then q.amount - q.cost else 0 end) as month_back,
                 count(q.seq) as requests, max(a_now[p_account[q.item]]) as at
            from unnest(w_tid, w_item, w_amount, w_cost, w_seq) q(tid, item, amount, cost, seq),
                 lateral (select o.child_key_id, o.day, o.month from open_hold o where o.ctid = q.tid) h,
                 lateral (select x.ctid, x.day, x.month from child_key x where x.id = h.child_key_id) k
           where q.tid is not null group by k.ctid) s
   where c.ctid = s.tid;
  get diagnostics v_written = row_count;
  if v_written <> (select count(distinct u.child) from unnest(w_tid, w_child) u(tid, child) where u.tid is not null) then
    raise exception 'a child key was written without the lock of its account' using errcode = 'serialization_failure';
  end if;

  delete from open_hold where ctid = any (w_tid);

  update account a set held = a.held - s.release, accrued = a.accrued + s.accrue, usage_seq = s.seq, last_at = s.at
    from unnest(p_accounts, a_release, a_accrue, a_seq, a_now) s(id, release, accrue, seq, at)
   where a.id = s.id and s.release > 0;

  if i_result is not null then
    decisions := array_to_string(i_result, ',');
    costs := array_to_string(i_cost, ',', '');
  else
    i_at := array(select a_now[u.a] from unnest(p_account) with ordinality u(a, o) order by u.o);
  end if;
  usage_seqs := array_to_string(i_seq, ',', '');
  held := array_to_string(i_held, ',', '');
  ended_at := array_to_string(array(select (extract(epoch from t) * 1000000)::bigint
                                      from unnest(i_at) with ordinality u(t, o) order by o), ',', '');
end $function$

CREATE OR REPLACE FUNCTION public.ensure_hold_partitions(p_ahead integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET lock_timeout TO '5s'
AS $function$
declare
  v_now timestamp := date_trunc('month', keytoll_clock() at time zone 'UTC');
  v_first timestamp;
  v_made int := 0;
begin
  perform pg_advisory_xact_lock(hashtext('ensure_hold_partitions'));
  select least(v_now, date_trunc('month', time_of_id(h.id) at time zone 'UTC')) - interval '1 month' into v_first
    from (select (select o.id from open_hold o order by o.id limit 1) as id) h;
  for n in 0..(extract(year from age(v_now, v_first)) * 12 + extract(month from age(v_now, v_first)))::int + p_ahead loop
    if make_hold_partition(v_first + make_interval(months => n)) then v_made := v_made + 1; end if;
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

CREATE OR REPLACE FUNCTION public.forget_replaced_secrets(p_keys uuid[])
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
end $function$

CREATE OR REPLACE FUNCTION public.forget_requests(p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_forgotten int;
begin
  delete from idempotent_request
   where ctid = any (array(select i.ctid from idempotent_request i
                            where i.claimed_at <= keytoll_clock() - interval '24 hours'
                            order by i.claimed_at limit p_limit for update skip locked));
  get diagnostics v_forgotten = row_count;
  return v_forgotten;
end $function$

CREATE OR REPLACE FUNCTION public.free_requests(p_scopes uuid[], p_hashes text[], p_holds uuid[])
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
  delete from idempotent_request i
   using unnest(p_scopes, p_hashes, p_holds) q(scope, hash, hold)
   where i.scope_id = q.scope and i.key_hash = decode(q.hash, 'hex') and i.hold_id = q.hold
     and i.answered_at is null
$function$

CREATE OR REPLACE FUNCTION public.gateway_lapsed(p_gateway uuid)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
  select p_gateway is not null and not exists (
    select 1 from gateway g where g.id = p_gateway and g.seen_at > keytoll_clock() - interval '60 seconds')
$function$

CREATE OR REPLACE FUNCTION public.grant_to_application()
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
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
end $function$

CREATE OR REPLACE FUNCTION public.hold_partition_needed(p_name text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
AS $function$
declare
  v_ends timestamptz;
  v_newest timestamptz;
  v_account uuid;
  v_hold uuid;
begin
  select p.ends into v_ends from hold_partitions('infinity') p where p.name = p_name;
  if v_ends is null then return 'there is no such month'; end if;
  if v_ends > keytoll_clock() - interval '48 hours' then
    return 'ids of this month may still come in: wait until 48 hours after its end';
  end if;
  select h.id into v_hold from open_hold h where h.id < first_id_of(v_ends) limit 1;
  if v_hold is not null then return format('hold %s of it is still open', v_hold); end if;
  execute format('
    select u.account_id from (select account_id, max(usage_seq) as newest from %I group by 1) u
      join account a on a.id = u.account_id where a.settled_seq < u.newest limit 1', p_name) into v_account;
  if v_account is not null then return format('usage of account %s in it is not settled', v_account); end if;
  execute format('select max(ended_at) from %I where usage_seq is not null', p_name) into v_newest;
  if v_newest is not null and not exists (
       select from period_reset r where r.kind = 'month' and r.finished_at is not null
          and r.period > (v_newest at time zone 'UTC')::date) then
    return format('the month of its newest end, %s, is not summed up yet', to_char(v_newest at time zone 'UTC', 'YYYY-MM'));
  end if;
  if usage_provable_before() is null or usage_provable_before() < v_ends then
    return 'the proof still needs its rows: run keytoll check first';
  end if;
  return null;
end $function$

CREATE OR REPLACE FUNCTION public.hold_partitions(p_until timestamp with time zone)
 RETURNS TABLE(name text, begins timestamp with time zone, ends timestamp with time zone)
 LANGUAGE sql
 STABLE
AS $function$
  select p.name, p.begins, p.begins + interval '1 month'
    from (select c.relname::text as name,
                 to_date(right(c.relname, 7), 'YYYY_MM')::timestamp at time zone 'UTC' as begins
            from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent = 'ended_hold'::regclass) p
   where p.begins + interval '1 month' <= p_until
   order by p.begins
$function$

CREATE OR REPLACE FUNCTION public.keep_answers(p_scopes uuid[], p_hashes text[], p_holds uuid[], p_costs bigint[], p_inputs bigint[], p_outputs bigint[], p_estimated boolean[], p_key_names text[], p_sealed text[])
 RETURNS text
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$

CREATE OR REPLACE FUNCTION public.keytoll_clock()
 RETURNS timestamp with time zone
 LANGUAGE sql
AS $function$ select clock_timestamp() $function$

CREATE OR REPLACE FUNCTION public.last_usage_before(p_account uuid, p_at timestamp with time zone, p_after bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
AS $function$
declare
  v_low bigint := p_after;
  v_high bigint;
  v_middle bigint;
  v_at timestamptz;
begin
  select a.usage_seq into v_high from account a where a.id = p_account;
  v_middle := v_high;
  while v_low < v_high loop
    select e.ended_at into v_at from ended_hold e where e.account_id = p_account and e.usage_seq = v_middle;
    if found and v_at >= p_at then v_high := v_middle - 1; else v_low := v_middle; end if;
    v_middle := (v_low + v_high + 1) / 2;
  end loop;
  return v_low;
end $function$

CREATE OR REPLACE FUNCTION public.late_capture(p_account uuid, p_hold uuid, p_cost bigint)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  c_loss constant uuid := '00000000-0000-0000-0000-000000000003';
  c_upstream_cost constant uuid := '00000000-0000-0000-0000-000000000004';
  v_at timestamptz;
  v_missed bigint;
begin
  select l.at into v_at from lock_accounts(array[p_account]) l;
  select p_cost - e.request_cost into v_missed from ended_hold e
   where e.account_id = p_account and e.id = p_hold and e.part = 0 and e.usage_seq is not null;
  if coalesce(v_missed, 0) <= 0 then return 0; end if;
  insert into transfer values (new_id(v_at), c_loss, c_upstream_cost, v_missed, 'loss',
    p_account || '/' || p_hold || '/late', v_at) on conflict do nothing;
  return v_missed;
end $function$

CREATE OR REPLACE FUNCTION public.lock_accounts(p_accounts uuid[])
 RETURNS TABLE(id uuid, at timestamp with time zone, status text, posted bigint, held bigint, accrued bigint)
 LANGUAGE sql
AS $function$
  select a.id, date_trunc('milliseconds', greatest(keytoll_clock(), a.last_at)) + interval '1 millisecond', a.status, a.posted, a.held, a.accrued
    from account a where a.id = any (p_accounts) order by a.id for no key update
$function$

CREATE OR REPLACE FUNCTION public.lock_rollups()
 RETURNS void
 LANGUAGE sql
AS $function$
  select pg_advisory_xact_lock(hashtext('usage_rollup'))
$function$

CREATE OR REPLACE FUNCTION public.make_hold_partition(p_month timestamp without time zone)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_name text := 'ended_hold_' || to_char(p_month, 'YYYY_MM');
begin
  if exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
              where i.inhparent = 'ended_hold'::regclass and c.relname = v_name) then
    return false;
  end if;
  execute format('create table %I (like ended_hold)', v_name);
  execute format('alter table ended_hold attach partition %I for values from (%L) to (%L)', v_name,
    first_id_of(p_month at time zone 'UTC'),
    first_id_of((p_month + interval '1 month') at time zone 'UTC'));
  return true;
end $function$

CREATE OR REPLACE FUNCTION public.new_id(at timestamp with time zone)
 RETURNS uuid
 LANGUAGE sql
AS $function$
  select (substr(first_id_of(at)::text, 1, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid
$function$

CREATE OR REPLACE FUNCTION public.note_balance(p_account uuid, p_wanted bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  s webhook_setting;
  v_balance bigint;
  v_low bigint := balance_low_of(p_account);
  v_key text;
  v_types text[];
begin
  insert into webhook_setting (account_id) values (p_account) on conflict do nothing;
  select * into s from webhook_setting x where x.account_id = p_account for no key update;
  -- read after the lock: a payment moves both in one transaction
  select a.posted - a.accrued, a.usage_seq || '/' || a.posted into v_balance, v_key from account a where a.id = p_account;
  v_types := case when v_balance < v_low and not s.low_told then array['balance.low'] else '{}' end
          || case when (v_balance <= 0 or v_balance < p_wanted) and not s.depleted_told
                  then array['balance.depleted'] else '{}' end;
  if v_types = '{}' then return; end if;
  perform record_webhook_events(array_agg(p_account), array_agg(t), array_agg(t || '/' || v_key),
      array_agg(jsonb_build_object('balance_ngonka', v_balance::text, 'low_ngonka', v_low::text)),
      array_agg(keytoll_clock()))
    from unnest(v_types) t;
  update webhook_setting x
     set low_told = low_told or 'balance.low' = any (v_types),
         depleted_told = depleted_told or 'balance.depleted' = any (v_types)
   where x.account_id = p_account;
end $function$

CREATE OR REPLACE FUNCTION public.note_refusals(p_children uuid[], p_limits text[], p_periods text[], p_wanted bigint[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  r record;
begin
  for r in select c.account_id, max(q.wanted) as wanted
             from unnest(p_children, p_limits, p_wanted) q(child, name, wanted) join child_key c on c.id = q.child
            where q.name = 'balance'
              and exists (select from webhook_endpoint e where e.account_id = c.account_id and e.status <> 'deleted')
            group by 1 order by 1 loop
    perform note_balance(r.account_id, r.wanted);
  end loop;
  perform record_webhook_events(array_agg(t.account_id), array_agg('limit.reached'::text), array_agg(t.key),
      array_agg(t.data), array_agg(keytoll_clock()))
    from (
      select c.account_id,
             'limit.reached/' || c.id || '/' || q.period
               || case q.name when 'total' then '/' || coalesce(c.limit_total, 0) else '' end as key,
             webhook_limit(c, q.name, q.period,
               case q.name when 'daily' then c.used_daily when 'monthly' then c.used_monthly else c.used_total end,
               case q.name when 'daily' then (q.period::date + 1)::timestamp at time zone 'UTC'
                           when 'monthly' then ((q.period || '-01')::date + interval '1 month') at time zone 'UTC' end) as data
        from unnest(p_children, p_limits, p_periods) q(child, name, period) join child_key c on c.id = q.child
       where q.name <> 'balance') t
  having count(*) > 0;
end $function$

CREATE OR REPLACE FUNCTION public.note_resets(p_children uuid[], p_used bigint[], p_requests bigint[], p_kind text, p_ended date, p_begins date)
 RETURNS void
 LANGUAGE sql
AS $function$
  select record_webhook_events(array_agg(t.account_id), array_agg('limit.reset'::text), array_agg(t.key),
      array_agg(t.data), array_agg(t.at))
    from (
      select c.account_id, 'limit.reset/' || c.id || '/' || p_kind || '/' || p_begins as key,
             webhook_limit(c, k.name, k.period, u.used, null) - 'resets_at'
               || jsonb_build_object('requests', u.requests) as data,
             p_begins::timestamp at time zone 'UTC' as at
        from unnest(p_children, p_used, p_requests) u(child, used, requests)
        join child_key c on c.id = u.child
       cross join (select case p_kind when 'day' then 'daily' else 'monthly' end as name,
                          case p_kind when 'day' then p_ended::text else to_char(p_ended, 'YYYY-MM') end as period) k) t
  having count(*) > 0
$function$

CREATE OR REPLACE FUNCTION public.note_usage(p_account uuid, p_max bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  v_percents int[];
begin
  if not exists (select from webhook_endpoint e where e.account_id = p_account and e.status <> 'deleted') then return; end if;
  perform note_balance(p_account, 0);
  v_percents := coalesce((select s.percents from webhook_setting s where s.account_id = p_account), '{50,80,100}');
  perform record_webhook_events(array_agg(p_account), array_agg(t.type order by t.key), array_agg(t.key order by t.key),
      array_agg(t.data order by t.key), array_agg(keytoll_clock()))
    from (
      with touched as (
        select distinct h.child_key_id as id
          from account a join ended_hold h on h.account_id = a.id
           and h.usage_seq > a.settled_seq and h.usage_seq <= a.settled_seq + p_max
         where a.id = p_account),
      held as (
        select o.child_key_id, o.day, o.month, sum(o.amount)::bigint as amount
          from open_hold o where o.account_id = p_account group by 1, 2, 3),
      used as (
        select c.id, l.name, l.period, l.period_key, l.cap, webhook_limit(c, l.name, l.period, l.used - h.amount, l.resets_at) as data,
               l.used - h.amount as used
          from touched t join child_key c on c.id = t.id
         cross join lateral (values
           ('daily', c.day::text, c.day::text, c.limit_daily, c.used_daily, (c.day + 1)::timestamp at time zone 'UTC'),
           ('monthly', to_char(c.month, 'YYYY-MM'), to_char(c.month, 'YYYY-MM'), c.limit_monthly, c.used_monthly,
             (c.month + interval '1 month') at time zone 'UTC'),
           ('total', 'total', 'total/' || c.limit_total, c.limit_total, c.used_total, null)
         ) l(name, period, period_key, cap, used, resets_at)
         cross join lateral (
           select coalesce(sum(o.amount), 0)::bigint as amount from held o
            where o.child_key_id = c.id and case l.name when 'daily' then o.day = c.day
                                                       when 'monthly' then o.month = c.month else true end) h
         where l.cap > 0)
      select 'limit.threshold' as type, data || jsonb_build_object('percent', p) as data,
             'limit.threshold/' || id || '/' || period_key || '/' || lpad(p::text, 3, '0') as key
        from used cross join unnest(v_percents) p where used::numeric * 100 >= cap::numeric * p
      union all
      select 'limit.reached', data, 'limit.reached/' || id || '/' || period_key from used where used >= cap) t
  having count(*) > 0;
end $function$

CREATE OR REPLACE FUNCTION public.post_hash(p_previous bytea, p_account uuid, p_no bigint, p_from bigint, p_to bigint, p_amount bigint, p_digest bytea)
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select sha256(p_previous || convert_to(concat_ws('|', p_account, p_no, p_from, p_to, p_amount), 'UTF8') || p_digest)
$function$

CREATE OR REPLACE FUNCTION public.record_detached_holds(p_partition regclass)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  v_before uuid := first_id_of(usage_provable_before());
  v_needed boolean;
  v_holds bigint;
begin
  execute format('select count(*), coalesce(bool_or(id >= $1), false) from %s', p_partition)
    into v_holds, v_needed using v_before;
  if v_before is null or v_needed then
    raise exception 'partition % is not proved as a whole: run keytoll check first', p_partition;
  end if;
  insert into detached_partition (name, holds, proof_no)
    select p_partition::text, v_holds, max(no) from proof;
  execute format('
    insert into detached_account as d
    select account_id, max(ended_at), coalesce(max(usage_seq), 0), count(usage_seq) from %s group by 1
    on conflict (account_id) do update
       set through = greatest(d.through, excluded.through), usage_seq = greatest(d.usage_seq, excluded.usage_seq),
           records = d.records + excluded.records', p_partition);
  execute format('
    insert into detached_child as d
    select child_key_id, account_id, max(day), sum(cost) filter (where day = newest), max(month),
           sum(cost) filter (where month = newest_month), sum(cost), sum(requests)
      from (select g.*, max(day) over child as newest, max(month) over child as newest_month
              from (select child_key_id, account_id, day, month, sum(cost) as cost, count(usage_seq) as requests
                      from %s group by 1, 2, 3, 4) g
            window child as (partition by child_key_id)) s
     group by 1, 2
    on conflict (child_key_id) do update
       set used_daily = case when d.day <= excluded.day then excluded.used_daily else 0 end
                      + case when d.day >= excluded.day then d.used_daily else 0 end,
           day = greatest(d.day, excluded.day),
           used_monthly = case when d.month <= excluded.month then excluded.used_monthly else 0 end
                        + case when d.month >= excluded.month then d.used_monthly else 0 end,
           month = greatest(d.month, excluded.month),
           used_total = d.used_total + excluded.used_total, requests = d.requests + excluded.requests', p_partition);
  return v_holds;
end $function$

CREATE OR REPLACE FUNCTION public.record_webhook_events(p_accounts uuid[], p_types text[], p_keys text[], p_data jsonb[], p_at timestamp with time zone[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare
  v_new int[];
begin
  select array_agg(g.n::int order by g.n) into v_new
    from unnest(p_accounts, p_types, p_keys) with ordinality g(account_id, type, key, n)
   where exists (select from webhook_endpoint e where e.account_id = g.account_id and webhook_takes(e, g.type))
     and not exists (select from webhook_event v where v.account_id = g.account_id and v.natural_key = g.key);
  if v_new is null then return; end if;
  perform from webhook_endpoint e
    where e.account_id in (select p_accounts[n] from unnest(v_new) n) and e.status <> 'deleted'
    order by e.id for no key update;

  with given as materialized (
    select new_id(keytoll_clock()) as id, n, p_accounts[n] as account_id, p_types[n] as type from unnest(v_new) n),
  fresh as (
    insert into webhook_event (id, account_id, natural_key, type, data, at)
    select g.id, g.account_id, p_keys[g.n], g.type, p_data[g.n], p_at[g.n] from given g order by g.n
    on conflict (account_id, natural_key) do nothing
    returning id),
  sent as (
    insert into webhook_delivery (id, endpoint_id, event_id, sequence, next_at, created_at)
    select new_id(keytoll_clock()), e.id, g.id, e.last_sequence + row_number() over (partition by e.id order by g.n),
           keytoll_clock(), keytoll_clock()
      from fresh join given g using (id)
      join webhook_endpoint e on e.account_id = g.account_id and webhook_takes(e, g.type)
    returning endpoint_id),
  numbered as (
    update webhook_endpoint e set last_sequence = e.last_sequence + s.count
      from (select endpoint_id, count(*) from sent group by 1) s
     where e.id = s.endpoint_id
    returning e.id, e.status)
  insert into outbox (kind, key) select 'webhook_endpoint', id from numbered where status = 'active';
  if found then perform pg_notify('outbox', ''); end if;
end $function$

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $function$

CREATE OR REPLACE FUNCTION public.roll_up_usage(p_accounts uuid[], p_until timestamp with time zone, p_max bigint, OUT records bigint, OUT more boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_accounts uuid[];
  v_from bigint[];
  v_to bigint[];
begin
  perform lock_rollups();
  select array_agg(c.id), array_agg(c.low), array_agg(c.high), sum(c.high - c.low), bool_or(c.high < c.last)
    into v_accounts, v_from, v_to, records, more
    from (select w.id, w.low, w.last,
                 least(w.last, w.low + greatest(0, p_max - sum(w.last - w.low) over (order by w.id) + (w.last - w.low)))::bigint as high
            from (select s.id, s.low, last_usage_before(s.id, p_until, s.low) as last
                    from (select a.id, coalesce((select r.seq from usage_rolled r where r.account_id = a.id), 0) as low
                            from unnest(p_accounts) a(id)) s) w
           where w.last > w.low) c
   where c.high > c.low or c.last > c.high;
  records := coalesce(records, 0);
  more := coalesce(more, false);
  if records = 0 then return; end if;

  insert into usage_rolled as r
    select q.id, q.high from unnest(v_accounts, v_to) q(id, high)
    on conflict (account_id) do update set seq = excluded.seq;

  with used as materialized (
    select (e.ended_at at time zone 'UTC')::date as day, e.child_key_id, coalesce(e.model, '') as model, e.account_id,
           count(*) as requests, coalesce(sum(e.input_tokens), 0)::bigint as input_tokens,
           coalesce(sum(e.output_tokens), 0)::bigint as output_tokens, sum(e.request_cost)::bigint as cost
      from unnest(v_accounts, v_from, v_to) q(id, low, high),
           lateral (select * from ended_hold h
                     where h.account_id = q.id and h.usage_seq > q.low and h.usage_seq <= q.high) e
     group by 1, 2, 3, 4 order by 1, 2, 3),
  written as (
    insert into usage_rollup as r
      (day, child_key_id, model, account_id, requests, input_tokens, output_tokens, cost)
    select u.* from used u
    on conflict (day, child_key_id, model) do update
       set requests = r.requests + excluded.requests, input_tokens = r.input_tokens + excluded.input_tokens,
           output_tokens = r.output_tokens + excluded.output_tokens, cost = r.cost + excluded.cost)
  update period_reset p
     set requests = p.requests + l.requests, cost = p.cost + l.cost
    from (select k.kind, k.period, sum(d.requests)::bigint as requests, sum(d.cost)::bigint as cost
            from (select day, sum(requests) as requests, sum(cost) as cost from used group by day) d,
                 lateral (values ('day', d.day + 1),
                                 ('month', (date_trunc('month', d.day::timestamp) + interval '1 month')::date)) k(kind, period)
           group by 1, 2) l
   where p.kind = l.kind and p.period = l.period and p.finished_at is not null;
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
  v_marks bytea;
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
  select u.records, u.amount, u.digest, u.marks into records, amount, v_digest, v_marks from usage_digest(p_account, v_from, v_to) u;
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
  insert into settlement_post values (p_account, a.post_no + 1, v_from, v_to, amount, v_transfer, a.chain, v_hash, a.at, v_marks);
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
  v_resumed timestamptz;
  v_lapsed uuid[];
  v_live uuid[];
  v_holders uuid[];
  v_accounts uuid[];
  v_ids uuid[];
  v_nothing bigint[];
  v_decisions text;
begin
  captured := 0;
  voided := 0;
  if pg_postmaster_start_time() + p_grace > clock_timestamp() then return; end if;
  perform 1 from sweep_pulse where seen_at > clock_timestamp() - interval '5 seconds';
  if not found then
    insert into sweep_pulse as p values (true, clock_timestamp(), '-infinity')
      on conflict (one) do update
      set resumed_at = case when p.seen_at < clock_timestamp() - interval '45 seconds' then clock_timestamp()
                            else p.resumed_at end,
          seen_at = clock_timestamp();
  end if;
  select p.resumed_at into v_resumed from sweep_pulse p;
  if v_resumed + p_grace > clock_timestamp() then return; end if;

  select array_agg(g.id) filter (where g.seen_at <= v_clock - interval '60 seconds'),
         coalesce(array_agg(g.id) filter (where g.seen_at > v_clock - interval '60 seconds'), '{}')
    into v_lapsed, v_live from gateway g;
  select array_agg(d.account_id), array_agg(d.id) into v_holders, v_ids from (
    (select h.account_id, h.id from open_hold h
      where h.part = 0 and h.deadline <= v_clock
        and (h.gateway_id is null or h.deadline <= v_clock - interval '30 seconds' or h.gateway_id <> all (v_live))
      order by h.deadline limit p_limit)
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

CREATE OR REPLACE FUNCTION public.tell_of_audit()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  if not exists (select from added a join webhook_endpoint e on e.account_id = a.account_id and e.status <> 'deleted') then
    return null;
  end if;
  -- settings before endpoints: the order in which everybody locks them
  update webhook_setting s
     set low_told = s.low_told and x.posted - x.accrued < balance_low_of(x.id), depleted_told = false
    from added a join account x on x.id = a.account_id
   where a.action = 'account.credited' and s.account_id = x.id;
  perform record_webhook_events(array_agg(t.account_id order by t.id), array_agg(t.type order by t.id),
      array_agg(t.type || '/' || t.subject || '/' || t.id order by t.id), array_agg(t.data order by t.id),
      array_agg(t.at order by t.id))
    from (
      select a.id, a.account_id, a.subject, a.at,
             'key.' || replace(split_part(a.action, '.', 2), 'rotated', 'updated') as type,
             jsonb_build_object('key', coalesce(webhook_child(c), webhook_management(m)))
               || case when a.action ~ '(updated|rotated)$'
                       then jsonb_build_object('changed', webhook_changed(a.action, a.change)) else '{}' end as data
        from added a
        left join child_key c on c.id = case when a.action like 'child_key.%' then a.subject::uuid end
        left join management_key m on m.id = case when a.action like 'management_key.%' then a.subject::uuid end
       where a.account_id is not null
         and a.action ~ '^(child_key|management_key)[.](created|updated|rotated|expired|deleted)$'
      union all
      select a.id, a.account_id, a.change ->> 'transfer', a.at, 'deposit.credited',
             jsonb_build_object('transfer_id', a.change ->> 'transfer', 'amount_ngonka', a.change ->> 'amount',
               'reference', a.change ->> 'reference', 'balance_ngonka', (x.posted - x.accrued)::text)
        from added a join account x on x.id = a.account_id
       where a.action = 'account.credited') t
  having count(*) > 0;
  return null;
end $function$

CREATE OR REPLACE FUNCTION public.time_of_id(p_id uuid)
 RETURNS timestamp with time zone
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select to_timestamp(('x' || substr(replace(p_id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0)
$function$

CREATE OR REPLACE FUNCTION public.usage_digest(p_account uuid, p_from bigint, p_to bigint, OUT records bigint, OUT amount bigint, OUT digest bytea, OUT marks bytea)
 RETURNS record
 LANGUAGE sql
 STABLE
AS $function$
  select count(*), coalesce(sum(h.request_cost), 0)::bigint,
         sha256(convert_to(coalesce(string_agg(usage_line(h), E'\n' order by h.usage_seq), ''), 'UTF8')),
         string_agg(usage_mark(h), ''::bytea order by h.usage_seq)
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

CREATE OR REPLACE FUNCTION public.usage_mark(h ended_hold)
 RETURNS bytea
 LANGUAGE sql
 STABLE
AS $function$
  select substr(sha256(convert_to(usage_line(h), 'UTF8')), 1, 4)
$function$

CREATE OR REPLACE FUNCTION public.usage_provable_before()
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE
AS $function$
  select least(time_of_id(p.id_floor),
               (select max(r.period)::timestamp at time zone 'UTC' - interval '1 day' from period_reset r
                 where r.kind = 'day' and r.finished_at is not null))
    from proof p order by p.no desc limit 1
$function$

CREATE OR REPLACE FUNCTION public.webhook_changed(p_action text, p_change jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case when p_action like '%.rotated' then '["secret"]'::jsonb
              else (select coalesce(jsonb_agg(lower(regexp_replace(name, '([A-Z])', '_\1', 'g'))
                             || case when name like 'limit%' then '_ngonka' else '' end order by name), '[]')
                      from jsonb_object_keys(p_change) name) end
$function$

CREATE OR REPLACE FUNCTION public.webhook_child(c child_key)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
  select jsonb_build_object('kind', 'child', 'id', c.id, 'management_key_id', c.management_key_id, 'name', c.name,
    'hint', c.hint, 'status', c.status, 'expires_at', c.expires_at, 'limit_daily_ngonka', c.limit_daily::text,
    'limit_monthly_ngonka', c.limit_monthly::text, 'limit_total_ngonka', c.limit_total::text)
$function$

CREATE OR REPLACE FUNCTION public.webhook_limit(c child_key, p_limit text, p_period text, p_used bigint, p_resets_at timestamp with time zone)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
  select jsonb_build_object('child_key_id', c.id, 'management_key_id', c.management_key_id, 'name', c.name,
    'limit', p_limit, 'period', p_period, 'used_ngonka', p_used::text, 'resets_at', p_resets_at,
    'limit_ngonka', (case p_limit when 'daily' then c.limit_daily when 'monthly' then c.limit_monthly
                                  else c.limit_total end)::text)
$function$

CREATE OR REPLACE FUNCTION public.webhook_management(m management_key)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
AS $function$
  select jsonb_build_object('kind', 'management', 'id', m.id, 'name', m.name, 'hint', m.hint, 'status', m.status,
    'expires_at', m.expires_at)
$function$

CREATE OR REPLACE FUNCTION public.webhook_takes(e webhook_endpoint, p_type text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
  select e.status <> 'deleted' and (e.events is null or p_type = any (e.events))
     and (e.disabled_at is null or e.disabled_at > keytoll_clock() - interval '30 days')
$function$
