import { parseArgs } from "node:util";
import { request } from "undici";
import { readConfig } from "../base/config.js";
import { isId, newId } from "../base/ids.js";
import { inGnk, parseTypedAmount } from "../base/money.js";
import { findGateway } from "../dev/running.js";
import type { Command } from "./command.js";

const WRONG_USAGE = 2;

export const command: Command = {
  summary: "pay an amount into an account, by the admin token",
  usage: `Usage: keytoll credit <e-mail or account id> <amount> [--reference TEXT]

  keytoll credit me@example.com 5gnk
  keytoll credit me@example.com 250000000ngonka --reference invoice-17

The same reference pays once, however often it is repeated. Without one, each call pays anew.

  --reference TEXT      your word for this payment, 1 to 200 characters
  KEYTOLL_ADMIN_TOKEN   without it, that of the system that runs on this machine`,

  async run(args) {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { reference: { type: "string" } },
    });
    const [whom, typed, ...more] = positionals;
    if (!whom || !typed || more.length > 0) {
      console.error("keytoll credit: wants an e-mail or account id, and an amount; see --help");
      return WRONG_USAGE;
    }
    const amount = parseTypedAmount(typed);
    if (!amount) {
      console.error(`keytoll credit: "${typed}" is not an amount like 5gnk or 250000000ngonka`);
      return WRONG_USAGE;
    }
    const api = adminApi(findGateway(readConfig(process.env)));
    const account = isId(whom) ? whom : await accountOf(api, whom);
    const reference = values.reference ?? `command ${newId()}`;
    await api("POST", `accounts/${account}/credits`, {
      amount_ngonka: amount.toString(),
      reference,
    });
    console.log(
      `credited ${inGnk(amount)} (${amount} ngonka) to ${whom}, reference "${reference}"`,
    );
    return 0;
  },
};

type Api = (method: "GET" | "POST", path: string, body?: object) => Promise<unknown>;

function adminApi({ http, adminToken }: { http: string; adminToken: string }): Api {
  return async (method, path, body) => {
    const answer = await request(`${http}/api/admin/${path}`, {
      method,
      headers: { authorization: `Bearer ${adminToken}`, "content-type": "application/json" },
      ...(body && { body: JSON.stringify(body) }),
    }).catch(() => {
      throw new Error(`no gateway answers at ${http}`);
    });
    const json = (await answer.body.json()) as { error?: { message: string } };
    if (answer.statusCode >= 400) throw new Error(json.error?.message ?? "the gateway refused");
    return json;
  };
}

async function accountOf(api: Api, email: string): Promise<string> {
  const page = (await api("GET", `accounts?email=${encodeURIComponent(email)}`)) as {
    data: { id: string }[];
  };
  const [account] = page.data;
  if (!account) throw new Error(`no account is registered for ${email}`);
  return account.id;
}
