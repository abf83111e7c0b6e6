import type { Id } from "../../src/base/ids.js";
import { ADMIN, restClient } from "../support/live-gateway.js";
import { MODEL } from "./upstream.js";

export interface Child {
  id: Id;
  secret: string;
  account: Id;
  /** REST path of the key. */
  path: string;
}

/** An owner with a few child keys. */
export interface Shop {
  account: Id;
  token: string;
  managementKey: string;
  children: Child[];
  /** Disabled and enabled again, on its own. */
  toggled: Child;
}

/** Ngonka per million tokens: 1 and 3 a token. */
export const PRICE = { inputPerMtok: 1_000_000n, outputPerMtok: 3_000_000n };
const CHILDREN = 3;
/** Ngonka: one is rich, one lives from hand to mouth. */
const PAID_IN = ["100000000000", "60000000", "20000"];

/** Registers the owners of a run, with what they have paid in, and prices the model. */
export async function openShops(http: string, sink: (paid: string, account: Id) => void) {
  const client = restClient(http);
  await client.done(`PUT /api/admin/models/${MODEL}`, {
    bearer: ADMIN,
    body: {
      input_ngonka_per_mtok: String(PRICE.inputPerMtok),
      output_ngonka_per_mtok: String(PRICE.outputPerMtok),
    },
  });
  const shops: Shop[] = [];
  for (const [i, paid] of PAID_IN.entries()) {
    const email = `owner-${i}@example.com`;
    const { account, token } = await client.anOwner(email, paid);
    sink(paid, account);
    const key = await client.aManagementKey(token);
    const aChild = async (): Promise<Child> => {
      const { id, secret } = await client.aChild(token, key.id);
      return { id, secret, account, path: `/api/management/keys/${key.id}/children/${id}` };
    };
    const children: Child[] = [];
    for (let n = 0; n < CHILDREN; n++) children.push(await aChild());
    shops.push({ account, token, managementKey: key.secret, children, toggled: await aChild() });
  }
  return shops;
}

/** The reference of the payment that an owner begins with. */
export const firstReference = (owner: number): string =>
  `first payment of owner-${owner}@example.com`;
