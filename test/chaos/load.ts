import { pause } from "../../src/base/time.js";
import { aPlan, ask } from "./ask.js";
import { createBackend } from "./backend.js";
import type { ClientBook } from "./books.js";
import type { Dice } from "./dice.js";
import { createOwners } from "./owners.js";
import type { Gateway } from "./services.js";
import type { Child, Shop } from "./shops.js";
import { aGateway } from "./system.js";

export interface Load {
  /** Lets what runs end, and resolves when all is known that can be. */
  drain(): Promise<void>;
}

interface Parts {
  gateways: readonly Gateway[];
  shops: readonly Shop[];
  book: ClientBook;
  dice: Dice;
}

const CLIENTS = 14;
const BACKENDS = 6;
const PATIENCE = 90_000;

/** Puts load on the gateways until it is drained. */
export function startLoad({ gateways, shops, book, dice }: Parts): Load {
  let running = true;
  let requests = 0;
  const nextNo = () => {
    requests += 1;
    return requests;
  };
  const children = shops.flatMap((shop) => shop.children);
  const tokens = new Map(
    shops.flatMap(({ children: own, managementKey }) => own.map((it) => [it.id, managementKey])),
  );
  const tokenOf = (child: Child) => tokens.get(child.id) ?? "";
  const backend = createBackend(gateways, tokenOf, book, dice.fork());
  const owners = createOwners({
    ...{ gateways, shops, book, dice: dice.fork(), nextNo },
    insists: () => running,
  });

  async function lane(think: number, step: (dice: Dice) => Promise<void>): Promise<void> {
    const own = dice.fork();
    while (running) {
      await step(own);
      await pause(own.int(0, 2 * think));
    }
  }
  async function request(own: Dice): Promise<void> {
    const child = own.pick(children);
    if (!child) return;
    const patience = own.chance(0.03) ? own.int(2, 300) : PATIENCE;
    const question = { child, plan: aPlan(nextNo(), own), stream: own.chance(0.4), patience };
    const answer = await ask(aGateway(gateways, own).http, question);
    book.asked.push(answer);
    // Whoever finds nobody does not hammer at the door
    if (answer.outcome === "refused") await pause(answer.why === "ECONNREFUSED" ? 500 : 50);
  }

  const lanes = [
    ...Array.from({ length: CLIENTS }, () => lane(60, request)),
    ...Array.from({ length: BACKENDS }, () =>
      lane(60, async (own) => {
        const child = own.pick(children);
        if (child) await backend.cycle(child);
      }),
    ),
    lane(300, owners.changeLimit),
    lane(400, owners.topUp),
    lane(800, owners.toggle),
  ];
  return {
    async drain() {
      running = false;
      await Promise.all(lanes);
    },
  };
}
