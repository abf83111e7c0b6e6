import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { KeyService } from "../../src/gen/keytoll/v1/key_pb.js";
import { expectBooksAreRight } from "../support/books.js";
import { openWorld, type World } from "./world.js";

let world: World;
let other: Awaited<ReturnType<World["start"]>>;
beforeAll(async () => {
  world = await openWorld({ KEYTOLL_WEBHOOK_ALLOW_PRIVATE: "127.0.0.0/8" });
  other = await world.start();
});
afterAll(() => world?.close());

const KEYS = "POST /api/management/keys";
const ENDPOINTS = "POST /api/webhooks/endpoints";
const countOf = async (table: string) =>
  Number((await world.sql.unsafe(`select count(*) as n from ${table}`))[0]?.n);
const keyed = (bearer: string, key: string, body: object) => ({
  ...{ bearer, body, headers: { "idempotency-key": key, "content-type": "application/json" } },
});

test("concurrent repeats of a create at two gateways make one key and get its secret", async () => {
  const { gateway, manager } = world;
  const route = `${KEYS}/${manager.id}/children`;
  const [before, asked] = [await countOf("child_key"), keyed(manager.secret, "c1", { name: "A" })];
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, i) => (i % 2 ? gateway : other).rest(route, asked)),
  );
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 201));
  expect(new Set(answers.map(({ json }) => JSON.stringify(json))).size).toBe(1);
  const replayed = answers.map(({ headers }) => headers.get("idempotent-replayed"));
  expect(replayed.filter((it) => it === "true")).toHaveLength(19);
  expect(await countOf("child_key")).toBe(before + 1);
  expect((await other.ask(String(answers[0]?.json.key), undefined)).status).toBe(200);
  await expectBooksAreRight(world.sql);
});

test("whatever shows a secret once shows the same one to its repeat, and another body is a conflict", async () => {
  const { gateway, manager, owner, child } = world;
  const url = "http://127.0.0.1:1/hook";
  const grace = { grace_seconds: 600 };
  const creates: [route: string, body: object, changed: object][] = [
    [KEYS, { name: "Second" }, { name: "Third" }],
    [`${KEYS}/${manager.id}/rotate`, grace, {}],
    [`${KEYS}/${manager.id}/children/${child.id}/rotate`, grace, {}],
    [ENDPOINTS, { url }, { url, events: ["balance.low"] }],
  ];
  for (const [route, body, changed] of creates) {
    const first = await gateway.rest(route, keyed(owner.token, "k", body));
    const again = await other.rest(route, keyed(owner.token, "k", body));
    expect(first.status, JSON.stringify(first.json)).toBeLessThan(300);
    expect(again.json, route).toEqual(first.json);
    expect(
      [first, again].map(({ headers }) => headers.get("idempotent-replayed")),
      route,
    ).toEqual([null, "true"]);
    const conflict = await other.rest(route, keyed(owner.token, "k", changed));
    expect([conflict.status, conflict.headers.get("x-should-retry")], route).toEqual([
      409,
      "false",
    ]);
  }
  const rotate = `${ENDPOINTS}/${String((await gateway.rest(ENDPOINTS, keyed(owner.token, "k", { url }))).json.id)}/rotate`;
  const secrets = await Promise.all(
    [gateway, other].map((it) => it.done(rotate, keyed(owner.token, "k", {}))),
  );
  expect(secrets[0]).toEqual(secrets[1]);
});

test("a create by REST is repeated by Connect and by gRPC, with the same secret", async () => {
  const { gateway, manager } = world;
  const route = `${KEYS}/${manager.id}/children`;
  const first = await gateway.done(route, keyed(manager.secret, "wires", { name: "W" }));
  const body = { managementKeyId: manager.id, name: "W" };
  const connect = await other.rest(
    "POST /keytoll.v1.KeyService/CreateChildKey",
    keyed(manager.secret, "wires", body),
  );
  expect(connect.json.key).toBe(first.key);
  expect(connect.headers.get("idempotent-replayed")).toBe("true");

  const transport = createGrpcTransport({ baseUrl: `http://${gateway.grpc}` });
  const seen: (string | null)[] = [];
  const answer = await createClient(KeyService, transport).createChildKey(body, {
    headers: { authorization: `Bearer ${manager.secret}`, "idempotency-key": "wires" },
    onHeader: (headers) => void seen.push(headers.get("idempotent-replayed")),
  });
  expect([answer.key, answer.childKey?.id]).toEqual([first.key, first.id]);
  expect(seen).toEqual(["true"]);
});

test("a refused create is not remembered, and another caller's key is another key", async () => {
  const { gateway, manager, owner } = world;
  const route = `${KEYS}/${manager.id}/children`;
  const bad = { name: "X", expires_at: "2020-01-01T00:00:00Z" };
  expect((await gateway.rest(route, keyed(manager.secret, "r", bad))).status).toBe(400);
  const mine = await other.done(route, keyed(manager.secret, "r", { name: "X" }));
  const owners = await other.done(route, keyed(owner.token, "r", { name: "X" }));
  expect(owners.key).not.toBe(mine.key);
  expect((await gateway.rest(route, keyed(owner.token, "a b", { name: "X" }))).status).toBe(400);
});

test("a management key that was stopped is not told again what it made", async () => {
  const { gateway, owner } = world;
  const stopped = await gateway.aManagementKey(owner.token);
  const route = `${KEYS}/${stopped.id}/children`;
  await gateway.done(route, keyed(stopped.secret, "s", { name: "S" }));
  await world.sql`update management_key set status = 'disabled' where id = ${stopped.id}`;
  const again = await gateway.rest(route, keyed(stopped.secret, "s", { name: "S" }));
  expect(again.status).toBe(401);
});

test("neither secrets nor answers nor keys can be read in the table", async () => {
  const { gateway, manager, child, owner } = world;
  const route = `${KEYS}/${manager.id}/children`;
  const made = await gateway.done(route, keyed(owner.token, "plain-key", { name: "Plain" }));
  await gateway.ask(child.secret, "plain-key");
  const rows = await world.sql<{ text: string; sealed: Buffer }[]>`
    select i::text as text, sealed from idempotent_request i where sealed is not null`;
  expect(rows.length).toBeGreaterThan(1);
  for (const { text, sealed } of rows) {
    const all = text + sealed.toString("latin1");
    for (const word of [String(made.key), "whsec_", "choices", "plain-key"]) {
      expect(all).not.toContain(word);
    }
  }
});
