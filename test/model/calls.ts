import type { Capture, HoldRequest } from "../../src/holds/holds.js";
import { END_DECISIONS, expectedEnd, expectedHold, HOLD_DECISIONS, inLine } from "./decisions.js";
import * as rules from "./hold-rules.js";
import type { Played } from "./lockstep.js";
import { at, instant, type Micros, numberOf, type World } from "./model.js";
import { type Real, toldBy } from "./real.js";
import { accountOfChild, type Call, type HoldCall } from "./steps.js";

/** A hold may name another account than its child's. */
type AnyCall = Call | (HoldCall & { account: number });
/** With its account and the number of its hold. */
type Numbered<It> = Omit<It, "id" | "account"> & { account: number; id: number; place: number };
type AskCall = Numbered<HoldCall>;
type EndCall = Numbered<Extract<Call, { do: "capture" }>> | Numbered<Extract<Call, { do: "void" }>>;
type NumberedCall = AskCall | EndCall;

function numbered(world: World, it: AnyCall, place: number): NumberedCall {
  const account = "account" in it ? it.account : accountOfChild(it.child);
  return { ...it, account, id: numberOf(world, account, it.id), place };
}

/**
 * Calls that are made at once: they share a batch, in which ends come first, account by account
 * where they are few. Calls for the same hold do not: the second is in the next batch.
 */
export async function playCalls(real: Real, world: World, made: AnyCall[]): Promise<Played> {
  const calls = made.map((it, place) => numbered(world, it, place));
  const asks = calls.map((it) => (it.do === "hold" ? askOf(world, it) : undefined));
  real.codes.hold.length = 0;
  real.codes.end.length = 0;
  const told = await Promise.all(calls.map((it, i) => makeCall(real, it, asks[i])));
  const decided = { hold: [...real.codes.hold], end: [...real.codes.end] };

  const expected: string[] = [];
  for (const batch of roundsOf(calls)) {
    const few = batch.length <= real.few;
    const round = few ? batch.toSorted((a, b) => a.account - b.account) : batch;
    const ends = round.filter((it): it is EndCall => it.do !== "hold");
    endAll(world, ends, instantsOf(world, few), (place, line, word) => {
      expected[place] = line;
      name(told, place, END_DECISIONS[decided.end.shift() ?? 0], word, expected);
    });
    const holds = round.flatMap(({ place }) => {
      const ask = asks[place];
      return ask ? [{ ...ask, place }] : [];
    });
    authorizeAll(world, holds, instantsOf(world, few), (place, line, word) => {
      expected[place] = line;
      name(told, place, HOLD_DECISIONS[decided.hold.shift() ?? 0], word, expected);
    });
  }
  return { told, expected };
}

/** Puts the decision in front of what was told, on both sides. */
function name(
  told: string[],
  place: number,
  real: string | undefined,
  word: string,
  expected: string[],
): void {
  told[place] = `${real}: ${told[place]}`;
  expected[place] = `${word}: ${expected[place]}`;
}

function roundsOf(calls: NumberedCall[]): NumberedCall[][] {
  const rounds: NumberedCall[][] = [];
  const seen = new Map<string, number>();
  for (const call of calls) {
    const key = `${call.account}/${call.id}`;
    const round = seen.get(key) ?? 0;
    seen.set(key, round + 1);
    rounds[round] ??= [];
    rounds[round].push(call);
  }
  return rounds;
}

type Decided = (place: number, line: string, word: string) => void;

/**
 * All ends of a batch happen at one instant of their account, and so do all its holds; where they
 * are few, each at its own.
 */
function instantsOf(world: World, few: boolean): Instants {
  const next = (account: number) => instant(world, at(world.accounts, account));
  const fixed = world.accounts.map((_, account) => next(account));
  return (account) => (few ? next(account) : at(fixed, account));
}

type Instants = (account: number) => Micros;

function endAll(world: World, ends: EndCall[], instantFor: Instants, decided: Decided): void {
  for (const it of ends) {
    const { account, id } = it;
    const how = it.do === "void" ? "void" : it.how;
    const [cost, print] = it.do === "void" ? [0n, 0n] : [it.cost, printOf(it)];
    const word = rules.end(world, { account, id, how, cost, print }, instantFor(account));
    const hold = at(world.accounts, account).holds.get(id);
    decided(it.place, expectedEnd(hold, how, word), word);
  }
}

function authorizeAll(
  world: World,
  asks: (rules.Ask & { place: number })[],
  instantFor: Instants,
  decided: Decided,
): void {
  for (const ask of asks) {
    const now = instantFor(ask.account);
    const { word, amount } = rules.authorize(world, ask, now);
    decided(ask.place, expectedHold(world, ask, { word, amount }, now), word);
  }
}

/** What was captured is part of the body. */
const printOf = ({ cost, print }: { cost: bigint; print: bigint }): bigint => print + cost * 10n;

function askOf(world: World, it: AskCall): rules.Ask {
  const { account, child, id, part, amount, floor, secret, print, seconds } = it;
  const version = secret === null ? 0 : (world.children[child]?.version ?? 1) + secret;
  const asked = { child, id, part, amount, floor, print, seconds };
  // Odd holds are of requests that our gateway runs; a version that never was is one to come
  const own = id % 2 === 1;
  const never = secret !== null && version < 1;
  return { ...asked, account, version: never ? 99 : version, own };
}

async function makeCall(real: Real, it: NumberedCall, ask: rules.Ask | undefined): Promise<string> {
  const hold = { account: at(real.accounts, it.account), id: at(real.ids, it.id) };
  if (ask) return inLine(await toldBy(real.holds.authorize(requestOf(real, ask))));
  if (it.do !== "capture") return inLine(await toldBy(real.holds.void(hold)));
  const capture: Capture = {
    ...hold,
    cost: it.cost,
    inputTokens: 1n,
    outputTokens: 1n,
    estimated: false,
    fingerprint: printOf(it),
    own: it.how === "gateway",
  };
  return inLine(await toldBy(real.holds.capture(capture)));
}

const requestOf = (real: Real, ask: rules.Ask): HoldRequest => ({
  account: at(real.accounts, ask.account),
  child: at(real.children, ask.child),
  id: at(real.ids, ask.id),
  part: ask.part,
  amount: ask.amount,
  floor: ask.floor,
  secretVersion: ask.version,
  seconds: ask.seconds,
  fingerprint: ask.print,
  own: ask.own,
  model: null,
  priceVersion: null,
});
