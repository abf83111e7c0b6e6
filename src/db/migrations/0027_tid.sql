-- The batch functions find each child key once: by its index where they read it, and by its place (ctid) where they
-- write it in the same transaction. A million keys make an index three levels deep, so that each way down it shows.
-- The place is right as long as every writer of a key locks its account first. Should one ever not, the batch fails as
-- a serialization failure, and its caller runs it again.
create function pg_temp.edited(p_function regproc, p_edits text[]) returns void language plpgsql as $$
declare
  v_text text := pg_get_functiondef(p_function);
begin
  for n in 1..array_length(p_edits, 1) loop
    if position(p_edits[n][1] in v_text) = 0 then
      raise exception '% has no such passage: %', p_function, p_edits[n][1];
    end if;
    v_text := replace(v_text, p_edits[n][1], p_edits[n][2]);
  end loop;
  execute v_text;
end $$;

select pg_temp.edited('authorize_holds', array[
  ['c_version int[];', 'c_tid tid[];
  c_version int[];'],
  ['select array_agg(k.status order by k.o), array_agg(k.version order by k.o),',
   'select array_agg(k.tid order by k.o), array_agg(k.status order by k.o), array_agg(k.version order by k.o),'],
  ['into c_status, c_version,', 'into c_tid, c_status, c_version,'],
  ['from (select u.o,
                 (case', 'from (select u.o, c.ctid as tid,
                 (case'],
  ['from unnest(p_children, p_child_account, c_add) s(id, a, more) where c.id = s.id and s.more > 0;',
   'from unnest(c_tid, p_child_account, c_add) s(tid, a, more) where c.ctid = s.tid and s.more > 0;
  get diagnostics v_written = row_count;
  if v_written <> (select count(*) from unnest(c_add) u where u > 0) then
    raise exception ''a child key was written without the lock of its account'' using errcode = ''serialization_failure'';
  end if;'],
  ['v_known boolean;', 'v_known boolean;
  v_written bigint;']
]);

select pg_temp.edited('end_holds', array[
  ['w_part smallint[];', 'w_part smallint[];
  w_child uuid[];'],
  ['array_agg(s.amount order by s.o, s.part), bool_and(',
   'array_agg(s.amount order by s.o, s.part), array_agg(s.child order by s.o, s.part), bool_and('],
  ['into w_tid, w_item, w_part, w_amount, v_plain', 'into w_tid, w_item, w_part, w_amount, w_child, v_plain'],
  ['from (select q.o, h.ctid as tid, h.part, h.amount, q.kind, q.cost',
   'from (select q.o, h.ctid as tid, h.part, h.amount, h.child_key_id as child, q.kind, q.cost'],
  ['lateral (select o.ctid, o.part, o.amount from open_hold o where',
   'lateral (select o.ctid, o.part, o.amount, o.child_key_id from open_hold o where'],
  ['from (select h.child_key_id as id, sum(q.amount) as held,', 'from (select k.ctid as tid, sum(q.amount) as held,'],
  ['lateral (select x.day, x.month from child_key x where x.id = h.child_key_id) k',
   'lateral (select x.ctid, x.day, x.month from child_key x where x.id = h.child_key_id) k'],
  ['where q.tid is not null group by h.child_key_id) s
   where c.id = s.id;',
   'where q.tid is not null group by k.ctid) s
   where c.ctid = s.tid;
  get diagnostics v_written = row_count;
  if v_written <> (select count(distinct u.child) from unnest(w_tid, w_child) u(tid, child) where u.tid is not null) then
    raise exception ''a child key was written without the lock of its account'' using errcode = ''serialization_failure'';
  end if;'],
  ['v_plain boolean;', 'v_plain boolean;
  v_written bigint;']
]);
