import { hash } from "node:crypto";
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Log } from "../base/log.js";
import { createVault } from "../base/vault.js";
import type { Db, Sql, Tx } from "../db/sql.js";
import { type CreateKey, claimCreate, findCreate, keepCreate } from "./create-store.js";
import { checkIdempotencyKey, hashOfKey } from "./key.js";

/** A call that may carry a key, as its handler knows it. */
export interface KeyedCall {
  idempotencyKey: string | undefined;
  requestId: Id;
  answerHeader(name: string, value: string): void;
}

export interface Creating<I extends DescMessage, O extends DescMessage> {
  call: KeyedCall;
  /** Who asks: keys of one never meet those of another. */
  scope: Id;
  /** The same key may be used once for each method. */
  method: DescMethodUnary<I, O>;
  request: MessageShape<I>;
  /** @throws where the caller may no longer ask for it: then it gets no old answer, either */
  checkAgain?(tx: Tx): Promise<void>;
}

/**
 * Creates something once, however often it is asked for with the same key within 24 hours: what is
 * created and the answer, its secret included, are stored in one transaction, and a repeat gets that
 * answer, marked `idempotent-replayed: true`. One that comes meanwhile waits. What was refused is
 * not remembered. Without a key, `work` runs as it is.
 *
 * @param work creates it on the connection that it is given
 * @throws invalid_request_error  the key is none
 * @throws idempotency_conflict   the key was used for something else
 * @throws answer_not_kept        it is there, and no secret of ours opens the answer any more
 */
export type CreateOnce = <I extends DescMessage, O extends DescMessage>(
  creating: Creating<I, O>,
  work: (db: Db) => Promise<MessageInitShape<O>>,
) => Promise<MessageInitShape<O>>;

/** @param secrets of the operator, newest first */
export function createOnceWith(sql: Sql, secrets: readonly string[], log: Log): CreateOnce {
  const vault = createVault(secrets, "idempotent creates");

  async function recall<O extends DescMessage>(tx: Tx, key: CreateKey, asked: Asked, output: O) {
    const { route, fingerprint, requestId, keyName, sealed } = await findCreate(tx, key);
    if (route !== asked.route || fingerprint !== asked.fingerprint) {
      throw refuse("idempotency_conflict", { shouldRetry: false });
    }
    try {
      if (!keyName || !sealed) throw new Error("it was not stored");
      const text = vault.open({ keyName, sealed }, placeOf(key, requestId));
      return fromBinary(output, Buffer.from(text, "base64"));
    } catch (error) {
      log.error({ err: error, requestId }, "what a create answered cannot be read");
      const facts = { original_request_id: requestId };
      throw refuse("answer_not_kept", { shouldRetry: false, facts });
    }
  }

  return async ({ call, scope, method, request, checkAgain }, work) => {
    const given = checkIdempotencyKey(call.idempotencyKey);
    if (given === undefined) return await work(sql);

    const route = `${method.parent.typeName}/${method.name}`;
    const fingerprint = fingerprintOf(toBinary(method.input, request));
    const asked = { route, fingerprint, requestId: call.requestId };
    const key = { scope, hash: hashOfKey(route, given) };
    const { answer, replayed } = await sql.begin(async (tx) => {
      if (!(await claimCreate(tx, key, asked))) {
        await checkAgain?.(tx);
        return { answer: await recall(tx, key, asked, method.output), replayed: true };
      }
      const answer = create(method.output, await work(tx));
      const text = Buffer.from(toBinary(method.output, answer)).toString("base64");
      await keepCreate(tx, key, vault.seal(text, placeOf(key, asked.requestId)));
      return { answer, replayed: false };
    });
    if (replayed) call.answerHeader("idempotent-replayed", "true");
    return answer as MessageInitShape<typeof method.output>;
  };
}

interface Asked {
  route: string;
  fingerprint: bigint;
}

const placeOf = ({ scope, hash }: CreateKey, requestId: Id): string =>
  `${scope}/${hash}/${requestId}`;

/** The first 8 bytes of the SHA-256 of a message, as a signed number. */
const fingerprintOf = (bytes: Uint8Array): bigint =>
  hash("sha256", bytes, "buffer").readBigInt64BE(0);
