import type { Db } from "../db/sql.js";

/** Something that is not as it should be. */
export interface Difference {
  /** 1 to 12; 0: not of the books, but of what waits. */
  invariant: number;
  /** Id of what is wrong. */
  subject: string;
  /** In words, for an operator. */
  reason: string;
}

/** Most that are named of one sort. */
const NAMED = 20;

/**
 * What waits longer than it should or was set aside: holds a minute past their deadline, outbox
 * entries, accounts that cannot be posted, usage that nobody posts.
 *
 * @param grace seconds after a start of Postgres in which no hold is late: gateways deliver first
 */
export async function findBacklog(db: Db, grace = 120): Promise<Difference[]> {
  const rows = await db<{ subject: string; reason: string }[]>`
    (select id::text as subject,
            format('hold %s of account %s is open %s s past its deadline', id, account_id,
              extract(epoch from keytoll_clock() - deadline)::int) as reason
       from open_hold
      where part = 0 and deadline <= (select keytoll_clock() - interval '60 seconds')
        and pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => ${grace})
      order by deadline limit ${NAMED})
    union all
    (select id::text, format('outbox entry %s (%s %s) was set aside: %s', id, kind, key, last_error)
       from outbox where set_aside order by id limit ${NAMED})
    union all
    (select id::text, format('outbox entry %s (%s %s) waits for %s s: %s', id, kind, key,
              extract(epoch from keytoll_clock() - created_at)::int,
              coalesce(last_error, 'no relay took it'))
       from outbox
      where not set_aside and created_at < (select keytoll_clock() - interval '10 minutes')
      order by created_at limit ${NAMED})
    union all
    (select account_id::text, format('account %s cannot be settled since %s, %s tries: %s',
              account_id, since::timestamp(0), attempts, reason)
       from settlement_set_aside where settled_at is null order by since limit ${NAMED})
    union all
    (select a.id::text, format('account %s has %s records that nobody has posted for an hour',
              a.id, a.usage_seq - a.settled_seq)
       from account a
       join ended_hold h on h.account_id = a.id and h.usage_seq = a.settled_seq + 1
      where a.usage_seq > a.settled_seq
        and h.ended_at < (select keytoll_clock() - interval '1 hour')
        and not exists (select from settlement_set_aside s
                         where s.account_id = a.id and s.settled_at is null)
      limit ${NAMED})`;
  return rows.map((row) => ({ invariant: 0, ...row }));
}
