import { LRUCache } from "lru-cache";
import { refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import type { Keyring } from "../keys/authenticate.js";
import type { Manager } from "../keys/caller.js";
import type { Authorized, HoldRequest } from "./holds.js";
import { findHoldParts, type HoldPart } from "./store.js";

/** About 0.5 kB each. */
const MAX_KNOWN = 50_000;

/**
 * What never changes of a hold that a backend opened. Not its amount, its deadline or whether it is
 * open: other gateways extend and end it too.
 */
export interface HoldFacts {
  child: Id;
  model: string | null;
  priceVersion: number | null;
  authorizedAt: Date;
}

export type HoldBook = ReturnType<typeof createHoldBook>;

/**
 * Looks holds up for those who may see them. The facts of holds that this process authorized are
 * kept until they end, so that ending one asks the database only once.
 */
export function createHoldBook(sql: Sql, keyring: Keyring) {
  const known = new LRUCache<string, HoldFacts>({ max: MAX_KNOWN });

  /** @throws not_found  for a child below another management key than the caller's */
  async function checkChild(manager: Manager, child: Id): Promise<void> {
    if (manager.kind === "owner") return;
    const row = await keyring.findChild(child);
    if (row?.managementKey !== manager.managementKey) throw noSuchHold();
  }

  /** All parts as they stand now. @throws not_found */
  async function parts(manager: Manager, id: Id): Promise<HoldPart[]> {
    const rows = await findHoldParts(sql, manager.account, id);
    const [first] = rows;
    if (!first) throw noSuchHold();
    await checkChild(manager, first.child_key_id);
    return rows;
  }

  return {
    parts,

    /**
     * Of holds that a backend opened: those of running inference are their gateway's to end.
     *
     * @throws not_found
     */
    async facts(manager: Manager, id: Id): Promise<HoldFacts> {
      const mine = known.get(manager.account + id);
      if (mine) {
        await checkChild(manager, mine.child);
        return mine;
      }
      const [first] = await parts(manager, id);
      if (!first || first.gateway_id) throw noSuchHold();
      const { child_key_id: child, model, price_version, authorized_at } = first;
      return { child, model, priceVersion: price_version, authorizedAt: authorized_at };
    },

    /** Keeps what was authorized just now. */
    remember(
      { account, id, child, model, priceVersion }: HoldRequest,
      { authorizedAt }: Authorized,
    ) {
      known.set(account + id, { child, model, priceVersion, authorizedAt });
    },

    /** Nobody asks for a hold that has ended, but for a repeated call now and then. */
    forget(account: Id, id: Id): void {
      known.delete(account + id);
    },
  };
}

const noSuchHold = () => refuse("not_found", { message: "no such hold", param: "hold_id" });
