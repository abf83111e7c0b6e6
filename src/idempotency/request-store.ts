import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import type { Sealed } from "../base/vault.js";
import { only, type Sql } from "../db/sql.js";

/** What names a claim: whose key, and the hold of the request that has it. */
export interface Claim {
  scope: Id;
  /** SHA-256 of the key, in hex. */
  hash: string;
  hold: Id;
}

export interface NewClaim extends Claim {
  account: Id;
  route: string;
  fingerprint: bigint;
  requestId: Id;
}

/** What a hold is to be captured at. */
export interface Ending {
  cost: Ngonka;
  inputTokens: bigint;
  outputTokens: bigint;
  estimated: boolean;
}

export interface NewAnswer extends Claim, Ending {
  /** Undefined: too large to be kept. */
  sealed: Sealed | undefined;
}

/** Why a key could not be claimed; see claim_requests. */
export interface Found extends Ending {
  item: number;
  state: "conflict" | "running" | "answered" | "unstored";
  requestId: Id;
  hold: Id;
  captured: boolean;
  keyName: string | null;
  sealed: Buffer | null;
}

/** An array literal of what needs no quotes; the driver's own are ten times slower. */
const column = <Item>(items: readonly Item[], of: (item: Item) => unknown): string =>
  `{${items.map((item) => of(item) ?? "NULL").join(",")}}`;

const quoted = (text: string): string => `"${text.replace(/[\\"]/g, "\\$&")}"`;

/** In the one order in which everybody locks rows. */
export const inOrder = (a: Claim, b: Claim): number => {
  const [one, other] = [a.scope + a.hash, b.scope + b.hash];
  if (one === other) return 0;
  return one < other ? -1 : 1;
};

/** @param claims in order. @returns those that could not be claimed, by their place from 1 */
export async function claimRequests(sql: Sql, claims: readonly NewClaim[]): Promise<Found[]> {
  return await sql<Found[]>`
    select item, state, request_id as "requestId", hold_id as hold, captured, cost,
           input_tokens as "inputTokens", output_tokens as "outputTokens", estimated,
           key_name as "keyName", sealed
      from claim_requests(
        ${column(claims, (it) => it.account)}::uuid[], ${column(claims, (it) => it.scope)}::uuid[],
        ${column(claims, (it) => it.hash)}::text[],
        ${column(claims, (it) => quoted(it.route))}::text[],
        ${column(claims, (it) => it.fingerprint)}::bigint[],
        ${column(claims, (it) => it.requestId)}::uuid[],
        ${column(claims, (it) => it.hold)}::uuid[])`;
}

/** @param answers in order. @returns places, from 1, of those whose claim was lost */
export async function keepAnswers(sql: Sql, answers: readonly NewAnswer[]): Promise<number[]> {
  const { lost } = only(
    await sql<{ lost: string | null }[]>`
      select keep_answers(
        ${column(answers, (it) => it.scope)}::uuid[], ${column(answers, (it) => it.hash)}::text[],
        ${column(answers, (it) => it.hold)}::uuid[], ${column(answers, (it) => it.cost)}::bigint[],
        ${column(answers, (it) => it.inputTokens)}::bigint[],
        ${column(answers, (it) => it.outputTokens)}::bigint[],
        ${column(answers, (it) => it.estimated)}::boolean[],
        ${column(answers, (it) => it.sealed?.keyName)}::text[],
        ${column(answers, (it) => it.sealed?.sealed.toString("base64"))}::text[]) as lost`,
  );
  return lost === null ? [] : lost.split(",").map(Number);
}

/** @param claims in order */
export async function freeRequests(sql: Sql, claims: readonly Claim[]): Promise<void> {
  await sql`
    select free_requests(
      ${column(claims, (it) => it.scope)}::uuid[], ${column(claims, (it) => it.hash)}::text[],
      ${column(claims, (it) => it.hold)}::uuid[])`;
}

/** Forgets up to `limit` requests of more than 24 hours ago. @returns how many */
export async function forgetRequests(sql: Sql, limit: number): Promise<number> {
  const { forgotten } = only(
    await sql<{ forgotten: number }[]>`select forget_requests(${limit}) as forgotten`,
  );
  return forgotten;
}
