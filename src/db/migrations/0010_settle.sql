-- One usage record as the text that is hashed: every field that a statement could show.
create function usage_line(h ended_hold) returns text language sql stable as $$
  select concat_ws('|', h.usage_seq, h.id, h.child_key_id, coalesce(h.model, ''), coalesce(h.price_version, 0),
    coalesce(h.input_tokens, 0), coalesce(h.output_tokens, 0), h.request_cost, coalesce(h.estimated, false),
    h.day, h.month, (extract(epoch from h.authorized_at) * 1000000)::bigint, (extract(epoch from h.ended_at) * 1000000)::bigint)
$$;

-- Digest of an account's usage records p_from to p_to, with their number and sum.
create function usage_digest(p_account uuid, p_from bigint, p_to bigint,
  out records bigint, out amount bigint, out digest bytea) language sql stable as $$
  select count(*), coalesce(sum(h.request_cost), 0)::bigint,
         sha256(convert_to(coalesce(string_agg(usage_line(h), E'\n' order by h.usage_seq), ''), 'UTF8'))
    from ended_hold h
   where h.account_id = p_account and h.usage_seq between p_from and p_to
$$;

-- A link of an account's chain: the previous link, what was posted, and the digest of the records behind it.
create function post_hash(p_previous bytea, p_account uuid, p_no bigint, p_from bigint, p_to bigint, p_amount bigint,
  p_digest bytea) returns bytea language sql immutable as $$
  select sha256(p_previous || convert_to(concat_ws('|', p_account, p_no, p_from, p_to, p_amount), 'UTF8') || p_digest)
$$;

-- Posts up to p_max captured, unsettled usage records of an account to the journal: one transfer, one link of the
-- chain, accrued down by what posted goes down. The watermark makes it exactly once: a repeat finds nothing to do.
create function settle_account(p_account uuid, p_max int,
  out records bigint, out amount bigint, out behind bigint) language plpgsql as $$
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
end $$;
