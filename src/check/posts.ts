import type { Id } from "../base/ids.js";
import { only, type Sql } from "../db/sql.js";
import { NAMED, type Scope } from "./invariant.js";

/** Most posts and usage records that one statement recomputes: some tens of megabytes. */
const POSTS = 5_000;
const RECORDS = 100_000;
/** Statements at once: as many as read beside the snapshot's own. */
const AT_ONCE = 2;

export interface Recomputed {
  posts: bigint;
  records: bigint;
  /** Posts that do not recompute from their records, by account and number. */
  broken: string[];
  /** Usage records that are older than the one before. */
  backwards: string[];
}

interface Place {
  account: Id;
  no: bigint;
}

interface PageRow {
  posts: bigint;
  records: bigint;
  account: Id | null;
  no: bigint | null;
  broken: string[];
  backwards: string[];
}

const BEGIN: Place = { account: "00000000-0000-0000-0000-000000000000", no: 0n };

/**
 * Recomputes the hash of every post of a pass from its usage records. Posts and their records never
 * change, so this needs no snapshot: page after page, each a short statement of its own, which
 * holds nothing up however long it all takes.
 *
 * @param progress is told how many records were recomputed so far
 */
export async function recomputePosts(
  sql: Sql,
  scope: Scope,
  progress: (records: bigint) => void,
): Promise<Recomputed> {
  const all: Recomputed = { posts: 0n, records: 0n, broken: [], backwards: [] };
  let place: Promise<Place | null> = Promise.resolve(BEGIN);

  /** @returns where the next page begins and ends; one after the other takes its turn */
  const takePage = async () => {
    const from = await place;
    const to = from && (await endOfPage(sql, scope, from));
    return from && to ? { from, to } : null;
  };
  const work = async (): Promise<void> => {
    for (;;) {
      const page = takePage();
      place = page.then((it) => it?.to ?? null);
      const taken = await page;
      if (!taken) return;
      const row = await recomputePage(sql, scope, taken.from, taken.to);
      all.posts += row.posts;
      all.records += row.records;
      all.broken.push(...row.broken);
      all.backwards.push(...row.backwards);
      progress(all.records);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return {
    ...all,
    broken: all.broken.slice(0, NAMED),
    backwards: all.backwards.slice(0, NAMED),
  };
}

/** The last post of the page that begins after `from`; null where there is none. */
async function endOfPage(sql: Sql, { accounts }: Scope, from: Place): Promise<Place | null> {
  const [row] = await sql<Place[]>`
    select account_id as account, no
      from (select account_id, no, row_number() over page as n,
                   sum(to_seq - from_seq + 1) over page as records
              from (select p.account_id, p.no, p.from_seq, p.to_seq
                      from settlement_post p left join ${sql.unsafe(accounts)} b using (account_id)
                     where (p.account_id, p.no) > (${from.account}::uuid, ${from.no}::bigint)
                       and p.no > coalesce(b.post_no, 0)
                     order by p.account_id, p.no limit ${POSTS}) due
            window page as (order by account_id, no rows unbounded preceding)) s
     where n = 1 or records <= ${RECORDS}
     order by n desc limit 1`;
  return row ?? null;
}

/** Each post with the record before it, so that the times of two neighbours can be compared. */
async function recomputePage(sql: Sql, { accounts }: Scope, from: Place, to: Place) {
  return only(
    await sql<PageRow[]>`
      select count(*) as posts, coalesce(sum(records), 0)::bigint as records,
             coalesce(array_agg(format('account %s, post %s: records %s to %s do not recompute%s',
               account_id, no, from_seq, to_seq, ': ' || changed_records(account_id, no))) filter (where broken), '{}') as broken,
             coalesce(array_agg(format('account %s: usage record %s is older than the one before',
               account_id, backwards)) filter (where backwards is not null), '{}') as backwards
        from (select p.account_id, p.no, p.from_seq, p.to_seq, d.records, d.backwards,
                     (d.records <> p.to_seq - p.from_seq + 1 or p.amount <> d.amount
                       or p.hash <> post_hash(p.previous_hash, p.account_id, p.no, p.from_seq,
                            p.to_seq, p.amount, d.digest))
                     and not (p.from_seq <= coalesce(b.gone_seq, 0)
                       and d.records < p.to_seq - p.from_seq + 1) as broken
                from settlement_post p left join ${sql.unsafe(accounts)} b using (account_id),
                     lateral (
                       select count(*) filter (where own) as records,
                              coalesce(sum(cost) filter (where own), 0) as amount,
                              sha256(convert_to(coalesce(string_agg(line, E'\n' order by seq)
                                filter (where own), ''), 'UTF8')) as digest,
                              min(seq) filter (where own and at < before) as backwards
                         from (select h.usage_seq as seq, h.usage_seq >= p.from_seq as own,
                                      h.request_cost as cost, h.ended_at as at,
                                      lag(h.ended_at) over (order by h.usage_seq) as before,
                                      usage_line(h) as line
                                 from ended_hold h
                                where h.account_id = p.account_id
                                  and h.usage_seq between p.from_seq - 1 and p.to_seq) r) d
               where (p.account_id, p.no) > (${from.account}::uuid, ${from.no}::bigint)
                 and (p.account_id, p.no) <= (${to.account}::uuid, ${to.no}::bigint)
                 and p.no > coalesce(b.post_no, 0)) c`,
  );
}
