import { pause } from "../../src/base/time.js";
import { ADMIN, restClient } from "../support/live-gateway.js";
import { aPlan, ask } from "./ask.js";
import type { ClientBook } from "./books.js";
import type { Dice } from "./dice.js";
import type { Gateway } from "./services.js";
import type { Shop } from "./shops.js";
import { aGateway } from "./system.js";

export interface Owners {
  /** Lowers or raises a child's daily limit to a little above what it has used. */
  changeLimit(): Promise<void>;
  /** Pays in under a new reference, and asks until that is acknowledged. */
  topUp(): Promise<void>;
  /** Disables a key, sees that it cannot spend, and enables it again. */
  toggle(): Promise<void>;
}

interface Parts {
  gateways: readonly Gateway[];
  shops: readonly Shop[];
  book: ClientBook;
  dice: Dice;
  nextNo(): number;
  /** False when the run is over: what is not known then stays unknown. */
  insists(): boolean;
}

const OK = 300;
const CALL_MS = 10_000;

/** What owners and the operator do while their children spend. */
export function createOwners({ gateways, shops, book, dice, nextNo, insists }: Parts): Owners {
  const clients = new Map(gateways.map(({ name, http }) => [name, restClient(http)]));
  let payments = 0;

  async function insist(route: string, bearer: string, body?: object) {
    while (insists()) {
      const call = clients
        .get(aGateway(gateways, dice).name)
        ?.rest(route, { bearer, ...(body && { body }) });
      const answer = await Promise.race([call, pause(CALL_MS)]).catch(() => undefined);
      if (answer && answer.status < OK) return answer.json;
      await pause(150);
    }
    return undefined;
  }

  return {
    async changeLimit() {
      const shop = dice.pick(shops);
      const child = dice.pick(shop?.children ?? []);
      if (!shop || !child) return;
      const { used_daily_ngonka: used } = (await insist(`GET ${child.path}`, shop.token)) ?? {};
      if (typeof used !== "string") return;
      const limit = dice.chance(0.15) ? null : String(BigInt(used) + BigInt(dice.int(0, 40_000)));
      await insist(`PATCH ${child.path}`, shop.token, { limit_daily_ngonka: limit });
    },

    async topUp() {
      const shop = dice.pick(shops);
      if (!shop) return;
      const { account } = shop;
      payments += 1;
      const reference = `payment ${payments}`;
      const amount = BigInt(dice.int(1, 5_000));
      const entry = { account, reference, amount, acknowledged: false };
      book.toppedUp.push(entry);
      const route = `POST /api/admin/accounts/${account}/credits`;
      const body = { amount_ngonka: String(amount), reference };
      entry.acknowledged = (await insist(route, ADMIN, body)) !== undefined;
      if (dice.chance(0.3)) await insist(route, ADMIN, body);
    },

    async toggle() {
      const shop = dice.pick(shops);
      if (!shop) return;
      const { toggled: child, token } = shop;
      const tried = async () => {
        const plan = { ...aPlan(nextNo(), dice), delay: 0, fault: "none" as const };
        const answer = await ask(aGateway(gateways, dice).http, {
          child,
          plan,
          stream: false,
          patience: 5_000,
        });
        book.asked.push(answer);
        return answer;
      };
      await tried();
      const disabled = await insist(`PATCH ${child.path}`, token, { status: "disabled" });
      const after = await tried();
      if (disabled && after.outcome === "acknowledged") {
        book.complaints.push({ what: "a disabled key has spent", id: child.id });
      }
      await insist(`PATCH ${child.path}`, token, { status: "active" });
    },
  };
}
