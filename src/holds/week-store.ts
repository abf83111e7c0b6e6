import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import type { Db } from "../db/sql.js";

export interface WeekRow {
  child: Id;
  /** Captured on the days of the week before today. */
  before: Ngonka;
}

/**
 * From the roll-ups, and from the records of these days that are not in them yet: few, unless no
 * worker has run since midnight.
 */
export async function selectWeek(db: Db, account: Id, children: Id[]): Promise<WeekRow[]> {
  return await db<WeekRow[]>`
    with days as (
      select monday, today, monday::timestamp at time zone 'UTC' as begins,
             today::timestamp at time zone 'UTC' as ends
        from (select date_trunc('week', n.at)::date as monday, n.at::date as today
                from (select keytoll_clock() at time zone 'UTC' as at) n) t),
    apart as materialized (
      select last_usage_before(${account}, d.begins, r.seq) as first,
             last_usage_before(${account}, d.ends, r.seq) as last
        from days d,
             (select coalesce(max(seq), 0) as seq
                from usage_rolled where account_id = ${account}) r),
    late as (
      select u.child_key_id, sum(u.cost) as cost
        from apart a
        join usage_record u on u.account_id = ${account}
             and u.usage_seq > a.first and u.usage_seq <= a.last
       group by 1)
    select c.id as child,
           (coalesce((select sum(r.cost) from usage_rollup r, days d
                       where r.child_key_id = c.id
                         and r.day = any(array(select d.monday + i
                                                 from generate_series(0, d.today - d.monday - 1) i))),
                     0)
            + coalesce((select l.cost from late l where l.child_key_id = c.id), 0))::bigint
             as before
      from unnest(${children}::uuid[]) c(id)`;
}
