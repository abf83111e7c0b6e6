import { allHolds, NAMED, type Scope } from "./invariant.js";

/** A limit of child keys: what it caps, and where the sum that a pass starts from stands. */
interface Cap {
  limit: "limit_daily" | "limit_monthly" | "limit_total";
  /** Expression that names the period of a hold. */
  period: string;
  /** The same of the sums that the pass starts from, and the sum. */
  before: string;
  used: string;
}

const CAPS: readonly Cap[] = [
  { limit: "limit_daily", period: "h.day::text", before: "b.day::text", used: "b.used_daily" },
  {
    limit: "limit_monthly",
    period: "h.month::text",
    before: "b.month::text",
    used: "b.used_monthly",
  },
  { limit: "limit_total", period: "'all time'", before: "'all time'", used: "b.used_total" },
];

/**
 * Authorizations that left more used than the limit then in force: the sum of what was held and not
 * given back at that instant, against the newest child_limit row up to it. An account's instants
 * never repeat, so their order is total.
 *
 * Most keys never ask for as much as their smallest limit, and most periods of the others do not:
 * only what is left is put in order, which is what costs.
 */
const overrun = (scope: Scope, { limit, period, before, used }: Cap): string => `
  with capped as materialized (
    select l.child_key_id, min(l.${limit}) as least
      from child_limit l join child_sum s on s.child_key_id = l.child_key_id
      left join ${scope.children} b on b.child_key_id = l.child_key_id
     where l.${limit} is not null
     group by l.child_key_id
    having min(l.${limit}) < max(s.asked + coalesce(${used}, 0))),
  moves as (
    select h.*, ${period} as period, c.least
      from ${allHolds(scope)} h join capped c on c.child_key_id = h.child_key_id),
  suspect as materialized (
    select m.child_key_id, m.period, coalesce(max(${used}), 0) as already
      from moves m left join ${scope.children} b
        on b.child_key_id = m.child_key_id and ${before} = m.period
     where m.authorized_at > m.judged
     group by m.child_key_id, m.period
    having sum(m.amount) + coalesce(max(${used}), 0) > max(m.least)),
  step as (
    select m.child_key_id, m.period, m.authorized_at as at, m.id, m.authorized_at > m.judged as judged,
           m.amount as delta
      from moves m where m.authorized_at > m.through
    union all
    select m.child_key_id, m.period, m.ended_at, m.id, false, m.cost - m.amount
      from moves m where m.cost is not null)
  select format('child key %s, %s: %s used of %s after hold %s', child_key_id, period, used, cap,
    id) as problem
    from (select s.*, (select l.${limit} from child_limit l
                        where l.child_key_id = s.child_key_id and l.since <= s.at
                        order by l.since desc limit 1) as cap
            from (select s.child_key_id, s.period, s.at, s.id, s.judged,
                         x.already + sum(s.delta) over (partition by s.child_key_id, s.period
                           order by s.at range unbounded preceding) as used
                    from step s join suspect x using (child_key_id, period)) s
           where s.judged) c
   where used > cap limit ${NAMED}`;

/** The queries that find them: for the daily, the monthly and the total limit. */
export const overruns = (scope: Scope): string[] => CAPS.map((cap) => overrun(scope, cap));
