import { refuse, refuseField } from "../base/errors.js";
import { type Page, type Paged, toPage } from "../base/field.js";
import { type Id, newId } from "../base/ids.js";
import { lockForChange } from "../db/change.js";
import type { Db, Sql } from "../db/sql.js";
import { enqueue } from "../temporal/outbox.js";
import { TEST_EVENT } from "./events.js";
import {
  type Delivery,
  findDelivery,
  insertTest,
  readTotals,
  selectDeliveries,
  sendAgain,
} from "./store.js";
import { getEndpoint } from "./webhooks.js";

/** Sends an event that says nothing, once. @throws not_found */
export async function testEndpoint(sql: Sql, account: Id, endpoint: Id): Promise<Delivery> {
  return await sql.begin(async (tx) => {
    await getEndpoint(tx, account, endpoint);
    const [id, event] = [newId(), newId()];
    const data = { endpoint_id: endpoint };
    await insertTest(tx, { id, event, endpoint, account }, { type: TEST_EVENT, data });
    await enqueue(tx, { kind: "webhook", key: id });
    return await readDelivery(tx, endpoint, id);
  });
}

/** Deliveries to an endpoint, newest first. @throws not_found */
export async function listDeliveries(
  db: Db,
  account: Id,
  endpoint: Id,
  status: Delivery["status"] | null,
  page: Page,
): Promise<Paged<Delivery>> {
  await getEndpoint(db, account, endpoint);
  return toPage(await selectDeliveries(db, endpoint, status, page), page);
}

/** @throws not_found */
export async function getDelivery(db: Db, account: Id, endpoint: Id, id: Id): Promise<Delivery> {
  await getEndpoint(db, account, endpoint);
  return await readDelivery(db, endpoint, id);
}

/**
 * Makes a delivery once more, whatever came of it before; one that waits is tried at once.
 *
 * @throws not_found; invalid_request_error where the endpoint is not active
 */
export async function redeliver(sql: Sql, account: Id, endpoint: Id, id: Id): Promise<Delivery> {
  return await sql.begin(async (tx) => {
    await lockForChange(tx, account);
    const { status } = await getEndpoint(tx, account, endpoint);
    const before = await readDelivery(tx, endpoint, id);
    if (status !== "active") throw refuseField("endpoint_id", `is ${status}: resume it first`);
    if (before.status === "pending" && !before.apart) {
      await enqueue(tx, { kind: "webhook_retry", key: endpoint });
    } else {
      await sendAgain(tx, id);
      await enqueue(tx, { kind: "webhook", key: id });
    }
    return await readDelivery(tx, endpoint, id);
  });
}

async function readDelivery(db: Db, endpoint: Id, id: Id): Promise<Delivery> {
  const delivery = await findDelivery(db, endpoint, id);
  if (!delivery) throw refuse("not_found");
  return delivery;
}

/** What was delivered, what failed, what waits, and how long the oldest has, over all accounts. */
export const webhookTotals = (db: Db) => readTotals(db);
