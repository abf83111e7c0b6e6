-- Four bytes of each record's own hash, in the records' order: a post that does not recompute tells which of its records
-- were changed. They prove nothing by themselves (the post's hash does), so they are not part of it. Null: posted before.
alter table settlement_post add column marks bytea;

create function usage_mark(h ended_hold) returns bytea language sql stable as $$
  select substr(sha256(convert_to(usage_line(h), 'UTF8')), 1, 4)
$$;

-- Digest of an account's usage records p_from to p_to, with their number, sum and marks.
drop function usage_digest;
create function usage_digest(p_account uuid, p_from bigint, p_to bigint,
  out records bigint, out amount bigint, out digest bytea, out marks bytea) language sql stable as $$
  select count(*), coalesce(sum(h.request_cost), 0)::bigint,
         sha256(convert_to(coalesce(string_agg(usage_line(h), E'\n' order by h.usage_seq), ''), 'UTF8')),
         string_agg(usage_mark(h), ''::bytea order by h.usage_seq)
    from ended_hold h
   where h.account_id = p_account and h.usage_seq between p_from and p_to
$$;

-- Which records of a post are not what was posted, in words, at most 20; null where that cannot be told.
create function changed_records(p_account uuid, p_no bigint) returns text language sql stable as $$
  select string_agg(c.problem, ', ' order by c.seq) from (
    select s.seq, case when h.id is null then format('record %s is gone', s.seq)
                       else format('record %s (hold %s) was changed', s.seq, h.id) end as problem
      from settlement_post p
     cross join lateral generate_series(p.from_seq, p.to_seq) s(seq)
      left join ended_hold h on h.account_id = p.account_id and h.usage_seq = s.seq
     where p.account_id = p_account and p.no = p_no and p.marks is not null
       and usage_mark(h) is distinct from substr(p.marks, ((s.seq - p.from_seq) * 4)::int + 1, 4)
     order by s.seq limit 20) c
$$;

-- Posts up to p_max captured, unsettled usage records of an account to the journal: one transfer, one link of the
-- chain, accrued down by what posted goes down. The watermark makes it exactly once: a repeat finds nothing to do.
create or replace function settle_account(p_account uuid, p_max int,
  out records bigint, out amount bigint, out behind bigint) language plpgsql as $$
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
end $$;
