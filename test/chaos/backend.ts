import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { newId } from "../../src/base/ids.js";
import { elapsed, pause } from "../../src/base/time.js";
import { HoldService } from "../../src/gen/keytoll/v1/hold_pb.js";
import type { ClientBook, Kept, Outcome } from "./books.js";
import type { Dice } from "./dice.js";
import type { Gateway } from "./services.js";
import type { Child } from "./shops.js";
import { aGateway } from "./system.js";

type Holds = Client<typeof HoldService>;

export interface Backend {
  /** One hold from its opening to its end. */
  cycle(child: Child): Promise<void>;
}

/** After which the caller does not know, and asks again. */
const CALL_MS = 6_000;
/** A call that is unknown for so long stays so. */
const GIVE_UP_MS = 180_000;
const CERTAIN = new Set([
  Code.InvalidArgument,
  Code.NotFound,
  Code.AlreadyExists,
  Code.PermissionDenied,
  Code.FailedPrecondition,
  Code.ResourceExhausted,
  Code.Unauthenticated,
]);

/** A backend that calls its own models and keeps its money at ours, over gRPC. */
export function createBackend(
  gateways: readonly Gateway[],
  tokenOf: (child: Child) => string,
  book: ClientBook,
  dice: Dice,
): Backend {
  const clients = new Map(
    gateways.map(({ name, grpc }) => [
      name,
      createClient(HoldService, createGrpcTransport({ baseUrl: grpc })),
    ]),
  );

  /** Calls with the same ids until the outcome is known. */
  async function insist<T>(child: Child, call: (holds: Holds, options: object) => Promise<T>) {
    const headers = { authorization: `Bearer ${tokenOf(child)}` };
    let lost = 0;
    for (const start = elapsed(); elapsed() - start < GIVE_UP_MS; await pause(100)) {
      const holds = clients.get(aGateway(gateways, dice).name);
      if (!holds) throw new Error("no gateway");
      try {
        const answer = await call(holds, { timeoutMs: CALL_MS, headers });
        return { outcome: "acknowledged" as Outcome, answer, lost, why: "" };
      } catch (error) {
        const { code, rawMessage } = ConnectError.from(error);
        if (CERTAIN.has(code)) {
          return { outcome: "refused" as Outcome, lost, why: `${Code[code]} ${rawMessage}` };
        }
        lost += 1;
      }
    }
    return { outcome: "unknown" as Outcome, lost, why: "given up" };
  }

  async function open(child: Child): Promise<Kept> {
    const kept: Kept = {
      ...{ id: newId(), child: child.id, authorized: "unknown", inDoubt: false },
      ...{ amount: 0n, deadline: 0, end: null, why: "" },
    };
    book.kept.push(kept);
    const amount = BigInt(dice.int(50, 2_000));
    const { outcome, answer, lost, why } = await insist(child, (holds, options) =>
      holds.authorize(
        {
          holdId: kept.id,
          key: { case: "childKeyId", value: child.id },
          size: { case: "amountNgonka", value: amount },
          deadlineSeconds: dice.chance(0.1) ? 3 : 90,
        },
        options,
      ),
    );
    kept.authorized = outcome;
    kept.inDoubt = lost > 0;
    kept.why = why;
    if (answer?.hold) note(kept, answer.hold);
    return kept;
  }

  async function extend(child: Child, kept: Kept): Promise<void> {
    const amountNgonka = BigInt(dice.int(10, 200));
    const { answer } = await insist(child, (holds, options) =>
      holds.extend({ holdId: kept.id, extension: 1, amountNgonka, deadlineSeconds: 90 }, options),
    );
    if (answer?.hold) note(kept, answer.hold);
  }

  async function capture(child: Child, kept: Kept, cost: bigint): Promise<void> {
    const call = () =>
      insist(child, (holds, options) =>
        holds.capture({ holdId: kept.id, actual: { case: "costNgonka", value: cost } }, options),
      );
    const { outcome, why } = await call();
    kept.end = { kind: "capture", outcome, cost };
    kept.why = why;
    if (outcome !== "acknowledged" || !dice.chance(0.1)) return;
    // Said again in other words, it is a conflict; in the same, it is the same
    const other = await insist(child, (holds, options) =>
      holds.capture({ holdId: kept.id, actual: { case: "costNgonka", value: cost + 1n } }, options),
    );
    if (other.outcome === "acknowledged") complain("captured again at another cost", kept.id);
    const again = await call();
    if (again.outcome === "refused") complain(`its repeat was refused: ${again.why}`, kept.id);
  }

  const complain = (what: string, id: string) => void book.complaints.push({ what, id });

  return {
    async cycle(child) {
      const kept = await open(child);
      if (kept.authorized !== "acknowledged") return;
      if (dice.chance(0.15)) await extend(child, kept);
      if (dice.chance(0.5)) await pause(dice.int(0, 400));
      const end = dice.roll();
      // Left to its deadline
      if (end < 0.05) return;
      if (end > 0.2)
        return await capture(child, kept, (kept.amount * BigInt(dice.int(0, 100))) / 100n);
      const { outcome, why } = await insist(child, (holds, options) =>
        holds.void({ holdId: kept.id }, options),
      );
      kept.end = { kind: "void", outcome, cost: 0n };
      kept.why = why;
    },
  };
}

interface HoldAnswer {
  amountNgonka: bigint;
  deadline?: { seconds: bigint } | undefined;
}

function note(kept: Kept, { amountNgonka, deadline }: HoldAnswer): void {
  kept.amount = amountNgonka;
  kept.deadline = Math.max(kept.deadline, Number(deadline?.seconds ?? 0n) * 1_000);
}
