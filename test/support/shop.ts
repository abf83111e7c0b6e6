import { expect, vi } from "vitest";
import { PATIENCE, type System } from "./system.js";

/** The fields of all answers that are read here. */
interface Body {
  id: string;
  account_id: string;
  token: string;
  key: string;
  used_daily_ngonka: string;
  usage: { cost_units: string };
  data: { debit_account: string; amount_ngonka: string }[];
}

export interface Answer {
  status: number;
  body: Body;
}

/** An owner and one child key, over plain HTTP. */
export interface Shop {
  account: string;
  childId: string;
  /** One request as the child. */
  chat(model?: string): Promise<Answer>;
  /** The child's look at its own key, which costs nothing. */
  ownKey(): Promise<Answer>;
  changeChild(fields: object): Promise<void>;
  /** What the child has used today, open holds included. */
  used(): Promise<bigint>;
  /** What the journal has taken from the owner. */
  settled(): Promise<bigint>;
  /** Waits until the journal has taken exactly this, and nothing is held. */
  expectSettled(cost: bigint): Promise<void>;
}

const PAID_IN = 5_000_000_000n;

/**
 * Registers an owner, pays in 5 GNK from the command line, and makes a management key and a child
 * key.
 */
export async function openShop(system: System, email: string, fields: object = {}): Promise<Shop> {
  const call = callerOf(system.ready.http);
  const password = "correct horse battery";
  const { status, body: owner } = await call("POST", "/api/auth/register", "", { email, password });
  expect(status).toBe(201);
  const credit = await system.keytoll("credit", email, "5gnk");
  expect(credit.stdout, credit.stderr).toContain(`credited 5 GNK (${PAID_IN} ngonka) to ${email}`);

  const { account_id: account, token } = owner;
  const keys = "/api/management/keys";
  const { body: manager } = await call("POST", keys, token, { name: "My SaaS" });
  expect(manager.key).toMatch(/^gm-/);
  const children = `${keys}/${manager.id}/children`;
  const made = await call("POST", children, token, { name: "Client A", ...fields });
  expect([made.status, made.body.key]).toEqual([201, expect.stringMatching(/^gc-/)]);
  const { id: childId, key } = made.body;
  const child = `${children}/${childId}`;

  const settled = async (): Promise<bigint> => {
    const { body } = await call("GET", "/api/account/transfers?limit=100", token);
    const taken = body.data.filter((it) => it.debit_account === account);
    return sum(taken.map((it) => it.amount_ngonka));
  };
  const messages = [{ role: "user", content: "hi" }];
  return {
    account,
    childId,
    chat: (model = "demo/fast") => call("POST", "/v1/chat/completions", key, { model, messages }),
    ownKey: () => call("GET", "/v1/key", key),
    async changeChild(changed) {
      expect((await call("PATCH", child, token, changed)).status).toBe(200);
    },
    async used() {
      const { body } = await call("GET", child, token);
      return BigInt(body.used_daily_ngonka);
    },
    settled,
    async expectSettled(cost) {
      await vi.waitFor(async () => expect(await settled()).toBe(cost), PATIENCE);
      const { body } = await call("GET", "/api/account", token);
      expect(body).toMatchObject({ balance_ngonka: `${PAID_IN - cost}`, held_ngonka: "0" });
    },
  };
}

/** Sum of what the answers say that they cost. */
export const costOf = (answers: readonly Answer[]): bigint =>
  sum(answers.map((it) => it.body.usage.cost_units));

function sum(amounts: readonly string[]): bigint {
  let total = 0n;
  for (const amount of amounts) total += BigInt(amount);
  return total;
}

const callerOf =
  (http: string) =>
  async (verb: string, path: string, secret: string, body?: object): Promise<Answer> => {
    const answer = await fetch(http + path, {
      method: verb,
      headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
      ...(body && { body: JSON.stringify(body) }),
    });
    return { status: answer.status, body: (await answer.json()) as Body };
  };
