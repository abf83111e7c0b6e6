import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Id, newId } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import { createBatcher } from "../../db/batcher.js";
import { makeOwnFolder, type OwnFolder } from "./spool-folder.js";
import { takeUpLeft } from "./spool-left.js";
import { encodeRecord, type SpoolRecord } from "./spool-record.js";
import { beginSegment, createShelf, endWriting, flush, type Segment } from "./spool-shelf.js";

/** Ends of holds on the local disk, for as long as neither Postgres nor Temporal takes them. */
export interface Spool {
  /** Resolves once the record is on disk. @throws Error where it cannot be put there */
  append(record: SpoolRecord): Promise<void>;
  /**
   * Takes up what gateways that are gone have left in this data folder. What was taken up before is
   * not told again.
   */
  takeUp(): Promise<SpoolRecord[]>;
  /** The hold is settled: its record may go, and its file with the last of them. */
  forget(hold: Id): void;
  /** Writes and removes a probe, for `problem`. */
  probe(): Promise<void>;
  /** Undefined where it can be written; else why not, for an operator. */
  problem(): string | undefined;
  bytes(): number;
  /** Leaves what is not settled for the next gateway on this data folder. */
  close(): Promise<void>;
}

interface SpoolOptions {
  /** KEYTOLL_DATA_DIR, of gateways on this machine only. */
  dataDir: string;
  log: Log;
  /** Bytes on disk at the most. */
  limit?: number;
}

/**
 * About 200,000 records. Without Postgres no request can begin, so what comes in is what was under
 * way: far less.
 */
const LIMIT = 64 * 1_024 * 1_024;
const AT_ONCE = 1_024;

/** A spool below `dataDir`, in a folder of this gateway's own that is made when it is needed. */
export function createSpool({ dataDir, log, limit = LIMIT }: SpoolOptions): Spool {
  const root = join(dataDir, "spool");
  const name = newId().slice(-12);
  const shelf = createShelf(log);
  let own: OwnFolder | undefined;
  let trouble: string | undefined;

  async function ownFolder(): Promise<string> {
    own ??= await makeOwnFolder(root, name);
    return own.path;
  }
  async function watched<T>(work: () => Promise<T>): Promise<T> {
    try {
      const done = await work();
      trouble = undefined;
      return done;
    } catch (error) {
      trouble = error instanceof Error ? error.message : String(error);
      log.error({ err: error, root }, "the spool cannot be written");
      throw error;
    }
  }
  const writer = createWriter({ shelf, limit, folder: ownFolder });
  const queue = createBatcher<SpoolRecord, true>((records) => watched(() => writer(records)), {
    limit: AT_ONCE,
    depth: Number.POSITIVE_INFINITY,
    keyOf: ({ ending }) => ending.holdId,
  });

  return {
    append: async (record) => void (await queue.call(record)),
    takeUp: () => takeUpLeft(root, shelf, log),
    forget: shelf.forget,
    probe: () => watched(async () => writeProbe(await ownFolder())).catch(() => {}),
    problem: () => trouble,
    bytes: shelf.bytes,
    async close() {
      await queue.idle();
      await shelf.close();
      const left = shelf.paths().some((path) => own !== undefined && path.startsWith(own.path));
      await own?.release(!left);
    },
  };
}

interface Writing {
  shelf: ReturnType<typeof createShelf>;
  limit: number;
  folder(): Promise<string>;
}

/**
 * Writes records that came together with one flush. After any failure a new file is begun, so that
 * nothing ever stands behind a torn record.
 */
function createWriter({ shelf, limit, folder }: Writing) {
  let active: Segment | undefined;
  return async (records: SpoolRecord[]): Promise<true[]> => {
    const text = Buffer.concat(records.map(encodeRecord));
    if (shelf.bytes() + text.length > limit) throw new Error(`full: it has ${limit} bytes`);
    if (!active || active.gone) active = await beginSegment(shelf, await folder());
    const segment = active;
    for (const { ending } of records) segment.holds.add(ending.holdId);
    segment.size += text.length;
    segment.busy = true;
    try {
      await flush(segment, text);
      return records.map(() => true);
    } catch (error) {
      active = undefined;
      for (const { ending } of records) segment.holds.delete(ending.holdId);
      await endWriting(segment).catch(() => {}); // it has failed already
      throw error;
    } finally {
      segment.busy = false;
      shelf.tidy(segment);
    }
  };
}

async function writeProbe(folder: string): Promise<void> {
  const path = join(folder, "probe");
  const handle = await open(path, "w", 0o600);
  try {
    await handle.writeFile(Buffer.alloc(4_096));
    await handle.datasync();
  } finally {
    await handle.close();
    await rm(path, { force: true });
  }
}
