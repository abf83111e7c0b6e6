import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { migrate } from "../src/db/migrate.js";
import { APPLICATION, applicationUrl, asApplication } from "../src/db/role.js";
import { connect, only, type Sql } from "../src/db/sql.js";
import { emptyDatabase, freshDatabase, type TestDatabase } from "./support/database.js";
import { startTestGateway } from "./support/gateway.js";

let database: TestDatabase;
let owner: Sql;
let application: Sql;

beforeAll(async () => {
  database = await freshDatabase();
  owner = connect(database.url, { name: "owner", max: 2 });
  application = connect(database.applicationUrl, { name: "application", max: 2 });
});

afterAll(async () => {
  await Promise.all([owner?.end(), application?.end()]);
  await database?.drop();
});

const currentUser = async (sql: Sql) =>
  only(await sql<{ user: string }[]>`select current_user as user`).user;

/** Everything that has, or whose parent has, the trigger that keeps it. */
const protectedTables = () =>
  owner<{ name: string; column: string }[]>`
    select c.oid::regclass::text as name,
           (select attname from pg_attribute where attrelid = c.oid and attnum = 2) as column
      from pg_class c join pg_trigger t on t.tgrelid = c.oid and t.tgname = 'append_only'
     where c.relkind in ('r', 'p') order by 1`;

/** What nobody may do to the record. */
const forbidden = ({ name, column }: { name: string; column: string }) => [
  `update ${name} set ${column} = ${column}`,
  `delete from ${name}`,
  `truncate ${name}`,
  `alter table ${name} disable trigger all`,
  `drop trigger append_only on ${name}`,
  `drop table ${name}`,
  `alter table ${name} add column x int`,
];

async function expectForbidden(table: { name: string; column: string }): Promise<void> {
  for (const statement of forbidden(table)) {
    await expect(application.unsafe(statement), statement).rejects.toMatchObject({ code: "42501" });
  }
}

test("the application's role cannot change, empty or unprotect anything that is on record", async () => {
  const tables = await protectedTables();
  const names = tables.map((table) => table.name);
  expect(names).toEqual(
    expect.arrayContaining(["transfer", "settlement_post", "ended_hold", "child_limit"]),
  );
  expect(names).toEqual(expect.arrayContaining(["audit_event", "model_price"]));
  expect(names.filter((name) => /^ended_hold_\d/.test(name)).length).toBeGreaterThan(3);
  for (const table of tables) await expectForbidden(table);
});

test("partitions that are made later, and detached ones, are as closed as the others", async () => {
  await application`select ensure_hold_partitions(7)`;
  const before = await protectedTables();
  const newest = before.filter((table) => table.name.startsWith("ended_hold_")).at(-1);
  expect(newest).toBeDefined();
  if (!newest) return;
  await expectForbidden(newest);
  await owner.unsafe(`alter table ended_hold detach partition ${newest.name}`);
  // what the partition had of its table's triggers went with the table
  await owner.unsafe(`
    create trigger append_only before update or delete on ${newest.name}
      for each row execute function refuse_change()`);
  await expectForbidden(newest);
  await expect(application.unsafe(`insert into ${newest.name} default values`)).rejects.toThrow(
    /permission denied/,
  );
});

test("the application's role owns nothing, and cannot switch triggers off for its session", async () => {
  await expect(application`set session_replication_role = replica`).rejects.toMatchObject({
    code: "42501",
  });
  const owned = await owner`
    select relname from pg_class where pg_get_userbyid(relowner) = ${APPLICATION}`;
  expect(owned).toHaveLength(0);
  await expect(application.unsafe("create table mine (x int)")).rejects.toThrow(/denied/);
  await expect(application.unsafe("select grant_to_application()")).rejects.toThrow(/denied/);
});

test("a new append-only table is covered by the next migration run, without being named", async () => {
  await owner.unsafe(`
    create table note (id int, said text);
    create trigger append_only before update or delete on note
      for each row execute function refuse_change()`);
  await owner.unsafe(`grant all on note to ${APPLICATION}`);
  await migrate(database.url);
  await application`insert into note values (1, 'x')`;
  await expectForbidden({ name: "note", column: "said" });
  await owner`drop table note`;
});

test("not even the owner empties what is append-only", async () => {
  for (const table of ["transfer", "settlement_post", "audit_event", "ended_hold"]) {
    await expect(owner.unsafe(`truncate ${table}`), table).rejects.toThrow(/append-only/);
  }
});

test("a gateway's sessions act as the application's role", async () => {
  const gateway = await startTestGateway();
  try {
    await gateway.sql.unsafe(`
      create table who (name text);
      grant insert on who to public;
      create function note_who() returns trigger language plpgsql as $$
        begin insert into who values (current_user); return new; end $$;
      create trigger who after insert on open_hold for each row execute function note_who();
      create trigger who after update on gateway for each row execute function note_who();
      create trigger who after insert on ended_hold for each row execute function note_who()`);
    const { secret } = await gateway.createChild();
    const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
      body: JSON.stringify({ model: "demo/fast", messages: [{ role: "user", content: "hi" }] }),
    });
    expect(answer.status).toBe(200);
    const names = await gateway.sql`select distinct name from who`;
    expect(names).toEqual([{ name: APPLICATION }]);
  } finally {
    await gateway.close();
  }
});

describe("a login that is not the owner's", () => {
  const login = `login_${Math.random().toString(36).slice(2)}`;
  const urlOf = (base: string) => {
    const url = new URL(base);
    url.username = login;
    url.password = "x";
    return url.href;
  };
  beforeAll(() => owner.unsafe(`create role ${login} login password 'x'`));
  afterAll(async () => {
    await owner.unsafe(`drop owned by ${login}; drop role ${login}`);
  });

  test("that is no member of the role is told so, once, and left as it is", async () => {
    const warnings: string[] = [];
    const url = urlOf(database.url);
    expect(await applicationUrl(url, (message) => warnings.push(message))).toBe(url);
    expect(warnings).toEqual([expect.stringContaining("keytoll migrate")]);
  });

  test("that is a member serves as the role, and can do nothing more", async () => {
    await owner.unsafe(`grant ${APPLICATION} to ${login}`);
    const url = await asApplication(urlOf(database.url));
    expect(url).toContain(`role=${APPLICATION}`);
    const member = connect(url ?? "", { name: "member", max: 1 });
    expect(await currentUser(member)).toBe(APPLICATION);
    await member`reset role`;
    await expect(member`delete from transfer`).rejects.toMatchObject({ code: "42501" });
    await member.end();
  });

  test("that may not make roles can still migrate", async () => {
    const empty = await emptyDatabase();
    const mine = connect(empty.url, { name: "mine", max: 1 });
    await mine.unsafe(`grant all on schema public to ${login}`);
    try {
      expect(await migrate(urlOf(empty.url))).toContain("0011_role.sql");
      const url = await asApplication(urlOf(empty.url));
      expect(url).toContain(APPLICATION);
    } finally {
      await mine.end();
      await empty.drop();
    }
  });
});

test("databases of one cluster may be migrated at the same moment", async () => {
  const empty = await Promise.all([1, 2, 3].map(() => emptyDatabase()));
  try {
    await Promise.all(empty.map((it) => migrate(it.url)));
    for (const it of empty) expect(await asApplication(it.url)).toContain(APPLICATION);
  } finally {
    await Promise.all(empty.map((it) => it.drop()));
  }
});
