import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { createDice } from "../chaos/dice.js";
import { type Line, startLine, type Trap } from "../chaos/proxy.js";
import { expectBooksAreRight } from "../support/books.js";
import { type Serving, startServing } from "../support/serving.js";
import { asker, costIn, type Given, openWorld, PATIENCE, type World } from "./world.js";

interface Point {
  at: "asked" | "answered";
  statement: RegExp;
  /** Whether the answer was stored by then: its repeat gets it at once. */
  stored: boolean;
  /** Whether the repeat comes after its hold was swept. */
  late?: boolean;
}

/** Where a gateway is killed, as seen on its line to Postgres. */
const POINTS: Record<string, Point> = {
  "after the claim": { at: "answered", statement: /claim_requests/, stored: false },
  "under the hold": { at: "answered", statement: /authorize/, stored: false },
  "with the answer in hand": { at: "asked", statement: /keep_answers/, stored: false },
  "with the answer stored": { at: "answered", statement: /keep_answers/, stored: true },
  "with the answer stored, and swept": {
    ...{ at: "answered", statement: /keep_answers/, stored: false, late: true },
  },
  "with the hold captured": { at: "answered", statement: /end_hold|end_and/, stored: true },
};

let world: World;
let victims: { name: string; point: Point; line: Line; serving: Serving; child: Child }[];
type Child = Awaited<ReturnType<World["gateway"]["aChild"]>>;

beforeAll(async () => {
  world = await openWorld();
  victims = await Promise.all(
    Object.entries(POINTS).map(async ([name, point]) => {
      const line = await startLine(world.database.url, createDice(1));
      const serving = await startServing(line.url, world.upstream.url);
      const child = await world.gateway.aChild(world.manager.secret, world.manager.id);
      return { name, point, line, serving, child };
    }),
  );
}, 90_000);
afterAll(async () => {
  await Promise.all((victims ?? []).map(({ serving }) => serving.stop("SIGKILL")));
  await Promise.all((victims ?? []).map(({ line }) => line.close()));
  await world?.close();
});

/** As a minute without those who were killed, and then a sweep. */
async function letTimePass(alive: string): Promise<void> {
  const { sql } = world;
  await sql`update gateway set seen_at = seen_at - interval '1 hour' where id <> ${alive}`;
  await sql`update idempotent_request set claimed_at = claimed_at - interval '20 seconds'`;
  await sql`select sweep_holds(500, interval '0')`;
}

test("a gateway killed at any point charges its request once, and the repeat elsewhere gets the answer that was charged", {
  timeout: 90_000,
}, async () => {
  const { gateway, sql, upstream } = world;
  const [first] = await sql<{ id: string }[]>`select id from gateway order by started_at limit 1`;
  const killed = victims.map(async ({ point, line, serving, child }) => {
    const gone = new Promise<void>((resolve) => {
      const trap: Trap = {
        ...{ at: point.at, statement: point.statement, cut: "before" },
        spring: () => void serving.stop("SIGKILL").then(resolve),
      };
      line.set(trap);
    });
    await expect(asker(serving.http).ask(child.secret, "once")).rejects.toThrow();
    await gone;
  });
  await Promise.all(killed);
  const asked = upstream.asked();

  const answers = new Map<string, Promise<Given>>();
  const repeat = ({ name, child }: { name: string; child: Child }) =>
    answers.set(name, gateway.ask(child.secret, "once"));
  for (const victim of victims.filter(({ point }) => !point.late)) repeat(victim);
  for (const { name } of victims.filter(({ point }) => point.stored)) {
    expect((await answers.get(name))?.replayed, name).toBe("true");
  }
  const waits = () => sql`select from pg_stat_activity where query like '%claim_requests%'`;
  await vi.waitFor(async () => expect((await waits()).length).toBeGreaterThan(0), PATIENCE);
  expect(upstream.asked()).toBe(asked);

  await letTimePass(first?.id ?? "");
  for (const victim of victims.filter(({ point }) => point.late)) repeat(victim);
  for (const { name, point, child } of victims) {
    const answer = await answers.get(name);
    expect([answer?.status, answer?.replayed], name).toEqual([200, point.stored ? "true" : null]);
    const again = await gateway.ask(child.secret, "once");
    expect([again.text, again.replayed], name).toEqual([answer?.text, "true"]);
    const charged = await sql`
      select request_cost as cost from ended_hold
       where child_key_id = ${child.id} and usage_seq is not null`;
    expect(charged, name).toEqual([{ cost: costIn(answer?.text ?? "") }]);
  }
  expect(upstream.asked()).toBe(asked + Object.values(POINTS).filter((it) => !it.stored).length);
  const open = await sql`select id from open_hold`;
  expect(open).toHaveLength(0);
  await expectBooksAreRight(sql);
});
