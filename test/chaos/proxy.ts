import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { pause } from "../../src/base/time.js";
import type { Dice } from "./dice.js";
import { statementReader } from "./statements.js";

/** What happens to the piece that springs a trap; its connection is cut in each case but `none`. */
export type Cut = "before" | "inside" | "after" | "none";

export interface Trap {
  /** Of the statement that springs it. */
  statement: RegExp;
  /**
   * When the statement passes on its way to Postgres, or when its answer is on its way back: then
   * it is committed and the asker does not know.
   */
  at: "asked" | "answered";
  cut: Cut;
  /** Called before a byte is passed on. */
  spring?: () => void;
}

/** A line between one process and Postgres that can go bad. */
export interface Line {
  /** The database's URL through it. */
  url: string;
  /** Cuts all connections. */
  drop(): void;
  /** Each piece of either direction waits this long, in milliseconds. */
  delay(ms: number): void;
  /** Swallows all there is to pass on, without an end that either side could notice. */
  blackHole(): void;
  /** Ends a black hole: what it swallowed goes on, or is lost with its connections. */
  clear(then: "deliver" | "lose"): void;
  /** Sets a trap, or takes it away. It springs once. */
  set(trap: Trap | undefined): void;
  close(): Promise<void>;
}

interface Weather {
  delayMs: number;
  /** Resolved except in a black hole. */
  open: Promise<void>;
  isOpen: boolean;
  trap: Trap | undefined;
}

/** @param databaseUrl of Postgres, which may come and go */
export async function startLine(databaseUrl: string, dice: Dice): Promise<Line> {
  const target = new URL(databaseUrl);
  const weather: Weather = {
    delayMs: 0,
    open: Promise.resolve(),
    isOpen: true,
    trap: undefined,
  };
  let letThrough: () => void = () => {};
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const postgres = connect(Number(target.port), target.hostname);
    for (const socket of [client, postgres]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("close", () => sockets.delete(socket));
    }
    join(client, postgres, weather, dice);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = new URL(databaseUrl);
  url.port = String((server.address() as AddressInfo).port);
  const drop = () => {
    for (const socket of sockets) socket.destroy();
  };
  const clear: Line["clear"] = (then) => {
    if (then === "lose") drop();
    weather.isOpen = true;
    letThrough();
  };
  return {
    url: url.href,
    drop,
    delay: (ms) => {
      weather.delayMs = ms;
    },
    blackHole: () => {
      if (!weather.isOpen) return;
      weather.isOpen = false;
      weather.open = new Promise((resolve) => {
        letThrough = resolve;
      });
    },
    clear,
    set: (trap) => {
      weather.trap = trap;
    },
    async close() {
      clear("lose");
      drop();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function join(client: Socket, postgres: Socket, weather: Weather, dice: Dice): void {
  const read = statementReader();
  /** Statements of which the answer has not come yet. */
  let asked: string[] = [];
  const end = () => {
    client.destroy();
    postgres.destroy();
  };
  const sprung = (at: Trap["at"], statements: string[]): Trap | undefined => {
    const { trap } = weather;
    if (trap?.at !== at || !statements.some((text) => trap.statement.test(text))) return undefined;
    weather.trap = undefined;
    trap.spring?.();
    return trap;
  };
  const pass = (to: Socket, piece: Buffer, trap: Trap | undefined) => {
    if (to.destroyed) return;
    const cut = trap?.cut ?? "none";
    if (cut === "before") return end();
    if (cut === "none") return void to.write(piece);
    to.write(cut === "inside" ? piece.subarray(0, dice.int(1, piece.length - 1)) : piece, end);
  };
  const ask = (piece: Buffer) => {
    const statements = read(piece);
    if (statements.length > 0) asked = statements;
    pass(postgres, piece, sprung("asked", statements));
  };
  const answer = (piece: Buffer) => {
    pass(client, piece, sprung("answered", asked));
    asked = [];
  };
  flow(client, postgres, weather, ask);
  flow(postgres, client, weather, answer);
}

/** Hands on pieces in their order, at once where the weather is good. */
function flow(from: Socket, to: Socket, weather: Weather, hand: (piece: Buffer) => void): void {
  let waiting = 0;
  let tail = Promise.resolve();
  const later = (act: () => void) => {
    waiting += 1;
    tail = tail.then(async () => {
      await weather.open;
      if (weather.delayMs > 0) await pause(weather.delayMs);
      waiting -= 1;
      act();
    });
  };
  const act = (what: () => void) =>
    waiting === 0 && weather.isOpen && weather.delayMs === 0 ? what() : later(what);
  from.on("data", (piece) => act(() => hand(piece)));
  from.on("error", () => to.destroy());
  from.on("close", () => act(() => to.end()));
}
