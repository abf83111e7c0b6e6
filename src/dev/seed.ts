import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { creditAccount, listAccounts, register } from "../accounts/accounts.js";
import type { Id } from "../base/ids.js";
import { NGONKA_PER_GNK } from "../base/money.js";
import { asApplication } from "../db/role.js";
import { connect, type Sql } from "../db/sql.js";
import { createTokens } from "../edge/auth.js";
import { DEMO_MODELS } from "../inference/demo-models.js";
import { listPrices, setModelPrice } from "../pricing/prices.js";
import { writePrivate } from "./secrets.js";

interface SeedOptions {
  databaseUrl: string;
  dataDir: string;
  /** Peppers, newest first. */
  secrets: string[];
}

const DEMO_OWNER = "demo@example.com";
const DEMO_CREDIT = 10n * NGONKA_PER_GNK;
/** 15 ngonka a token, prompt and answer alike, as the network has charged. */
const DEMO_PRICE = { inputPerMtok: 15_000_000n, outputPerMtok: 15_000_000n };
const DEMO_LIMITS = { contextTokens: 200_000, maxOutputTokens: 8_192 };

/**
 * Makes what a first visitor needs: a demo owner with 10 GNK, and prices for the demo models. The
 * same again changes nothing but the owner's token, which lives for a day.
 *
 * @returns the file that holds a token of the demo owner
 */
export async function seedDemo(options: SeedOptions): Promise<{ ownerTokenFile: string }> {
  const url = (await asApplication(options.databaseUrl)) ?? options.databaseUrl;
  const sql = connect(url, { name: "keytoll seed", max: 1 });
  try {
    const priced = new Set((await listPrices(sql)).map((price) => price.model));
    for (const { id: model } of DEMO_MODELS.filter((it) => !priced.has(it.id))) {
      await setModelPrice(sql, { model, ...DEMO_PRICE, ...DEMO_LIMITS, enabled: true });
    }
    const account = await demoOwner(sql);
    await creditAccount(sql, { account, amount: DEMO_CREDIT, reference: "demo credit" });
    const { token } = await createTokens(options.secrets).issue(account);
    const ownerTokenFile = join(options.dataDir, "demo-owner-token");
    writePrivate(ownerTokenFile, token);
    return { ownerTokenFile };
  } finally {
    await sql.end();
  }
}

async function demoOwner(sql: Sql): Promise<Id> {
  const { data } = await listAccounts(sql, DEMO_OWNER, { after: null, limit: 1 });
  const [known] = data;
  // Nobody knows this password: the demo owner comes in by its token
  return (
    known?.id ?? register(sql, { email: DEMO_OWNER, password: randomBytes(32).toString("hex") })
  );
}
