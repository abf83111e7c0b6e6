import type { Order } from "../../workflows/contract.js";
import type {
  WebhookLine,
  WebhookState,
  WebhookWaiting,
} from "../../workflows/webhook-contract.js";
import type { Id } from "../base/ids.js";
import { elapsed, HOUR, MINUTE, SECOND } from "../base/time.js";
import type { Vault } from "../base/vault.js";
import { recordAudit } from "../db/change.js";
import type { Sql, Tx } from "../db/sql.js";
import { enqueue } from "../temporal/outbox.js";
import { payloadOf, TEST_EVENT } from "./events.js";
import {
  countApart,
  type Due,
  disableEndpoint,
  findDue,
  findState,
  firstInLine,
  lastError,
  noteFailing,
  writeDelivered,
  writeGivenUp,
  writeInVain,
} from "./line-store.js";
import { readSecrets } from "./secret-store.js";
import type { Answer, Sender } from "./send.js";

/** What deliveries are made with. */
export interface Post {
  sql: Sql;
  vault: Vault;
  sender: Sender;
}

export interface Look {
  /** Does not wait for when the next try is due. */
  atOnce: boolean;
  /** Cuts a request that is under way: whoever looks next makes it again. */
  signal?: AbortSignal;
  /** Called before each try. */
  onTry?: () => void;
}

/** Milliseconds that one look at a line may go on beginning tries. */
const LOOK = 20 * SECOND;
const FIRST_WAIT = SECOND;
const LONGEST_WAIT = 30 * MINUTE;
const GIVE_UP = (72 * HOUR) / SECOND;
/** Tries after which what the receiver refuses leaves the line, and how many may have left it. */
const TRIES_IN_LINE = 5;
const MAX_APART = 10;
const GONE = 410;
/** Answers that say nothing of the event, only that the receiver does not take any now. */
const NOT_NOW = new Set([408, 425, 429]);

/**
 * Delivers what waits for an endpoint, in its order, until there is nothing more, the first must
 * wait for its next try, or the time for one look is over.
 */
export async function deliverInOrder(post: Post, endpoint: Id, look: Look): Promise<WebhookLine> {
  const start = elapsed();
  let { atOnce } = look;
  let delivered = 0;
  while (elapsed() - start < LOOK) {
    const state = await findState(post.sql, endpoint);
    if (state?.status !== "active") {
      const why = state?.statusReason ?? `the endpoint is ${state?.status ?? "unknown"}`;
      return { kind: "stopped", delivered, why };
    }
    const due = await firstInLine(post.sql, endpoint);
    if (!due) return { kind: "empty", delivered };
    if (due.waitMs > 0 && !atOnce) return { ...waiting(due), delivered };
    atOnce = false;
    look.onTry?.();
    if (await attempt(post, due, look.signal)) delivered += 1;
  }
  return { kind: "more", delivered };
}

/** Tries one delivery, whatever else waits for its endpoint. */
export async function deliverApart(post: Post, id: Id, look: Look): Promise<WebhookState> {
  const due = await findDue(post.sql, id);
  if (!due) return { kind: "none" };
  const state = await findState(post.sql, due.endpoint);
  if (state?.status !== "active" && due.type !== TEST_EVENT) {
    return { kind: "held", why: state?.statusReason ?? `the endpoint is ${state?.status}` };
  }
  if (!due.apart) return { kind: "none" };
  if (due.waitMs > 0 && !look.atOnce) return waiting(due);
  look.onTry?.();
  const tries = due.attempts + 1;
  if (await attempt(post, due, look.signal)) return { kind: "delivered", tries };
  const left = await findDue(post.sql, id);
  if (left) return waiting(left);
  return { kind: "failed", tries, problem: (await lastError(post.sql, id)) ?? "it was removed" };
}

/** Ends a delivery that waits, and writes who ordered it to the audit trail. Again is the same. */
export async function giveUpDelivery(sql: Sql, id: Id, { by, reason }: Order): Promise<void> {
  await sql.begin(async (tx) => {
    const given = await writeGivenUp(tx, id, `given up by the operator: ${reason}`);
    if (!given) return;
    const { account, at } = given;
    const action = "webhook_delivery.given_up";
    await recordAudit(tx, {
      ...{ account, at, actor: "admin", action, subject: id, change: { by, reason } },
    });
  });
}

function waiting({ id, type, attempts, waitMs, lastStatus, lastError }: Due): WebhookWaiting {
  const problem = lastStatus === null ? (lastError ?? "") : `last answer ${lastStatus}`;
  return { kind: "waiting", deliveryId: id, type, tries: attempts, waitMs, problem };
}

/** One request and its record. @returns true where it was taken */
async function attempt(post: Post, due: Due, signal?: AbortSignal): Promise<boolean> {
  const answer = await ask(post, due, signal);
  const { status } = answer;
  if (status !== null && status >= 200 && status < 300) {
    await post.sql.begin((tx) => writeDelivered(tx, due, status));
    return true;
  }
  await post.sql.begin((tx) => recordInVain(tx, due, answer));
  return false;
}

async function ask({ sql, vault, sender }: Post, due: Due, signal?: AbortSignal): Promise<Answer> {
  const secrets = await readSecrets(sql, vault, due.endpoint).catch(() => undefined);
  if (!secrets?.length) {
    return { status: null, problem: "its signing secret cannot be read: rotate it" };
  }
  const body = payloadOf({ ...due, id: due.event });
  return await sender.send({ url: due.url, id: due.event, body, secrets }, signal);
}

/**
 * Notes a try in vain. It is tried again, longer and longer apart, for 72 h; where nothing at all
 * could be delivered for so long, or the receiver says that it is gone, the endpoint is disabled
 * and keeps what waits.
 */
async function recordInVain(tx: Tx, due: Due, answer: Answer): Promise<void> {
  const { status } = answer;
  const problem = status === null ? answer.problem : `answered ${status}`;
  if (due.type === TEST_EVENT) {
    await writeInVain(tx, due, { status, problem, waitMs: null, apart: true });
    return;
  }
  const seconds = await noteFailing(tx, due.endpoint);
  const dead = status === GONE || seconds >= GIVE_UP;
  if (dead)
    await disable(tx, due, status === GONE ? "it answered 410" : `72 h in vain: ${problem}`);

  const late = !dead && (due.triedForSeconds ?? 0) >= GIVE_UP;
  const leaves = !dead && !late && !due.apart && (await mayLeave(tx, due, status));
  await writeInVain(tx, due, {
    ...{ status, problem, waitMs: late ? null : backOff(due.attempts) },
    apart: due.apart || leaves,
  });
  if (leaves) await enqueue(tx, { kind: "webhook", key: due.id });
}

/** A receiver that is down keeps its line; one that refuses this event lets the others pass. */
async function mayLeave(tx: Tx, due: Due, status: number | null): Promise<boolean> {
  const refuses = status !== null && status >= 400 && status <= 500 && !NOT_NOW.has(status);
  if (!refuses || due.attempts + 1 < TRIES_IN_LINE) return false;
  return (await countApart(tx, due.endpoint)) < MAX_APART;
}

async function disable(tx: Tx, { endpoint, account }: Due, reason: string): Promise<void> {
  const at = await disableEndpoint(tx, endpoint, reason);
  if (!at) return;
  const action = "webhook_endpoint.disabled";
  await recordAudit(tx, {
    ...{ account, at, actor: "system", action, subject: endpoint },
    change: { reason },
  });
}

/** Milliseconds until the next try: doubling, up to half an hour, a fifth more or less. */
function backOff(tries: number): number {
  const wait = Math.min(FIRST_WAIT * 2 ** Math.min(tries, 20), LONGEST_WAIT);
  return Math.round(wait * (0.8 + Math.random() * 0.4));
}
