import { type FileHandle, open, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Id, newId } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import { flushFolder } from "./spool-folder.js";

/** A file of a spool. */
export interface Segment {
  path: string;
  size: number;
  /** Holds in it that are not settled. */
  holds: Set<Id>;
  /** Undefined where it is only read: another gateway wrote it. */
  handle: FileHandle | undefined;
  /** Being written to: it stays, whoever is settled meanwhile. */
  busy: boolean;
  /** Removed, or about to be. */
  gone: boolean;
}

export const SUFFIX = ".spool";

export type Shelf = ReturnType<typeof createShelf>;

/** The files of a spool. Each goes once all the holds in it are settled. */
export function createShelf(log: Log) {
  const segments = new Map<string, Segment>();
  let removing: Promise<unknown> = Promise.resolve();

  function tidy(segment: Segment): void {
    if (segment.busy || segment.holds.size > 0 || segment.gone) return;
    segment.gone = true;
    segments.delete(segment.path);
    const gone = discard(segment).catch((error: unknown) =>
      log.error({ err: error, file: segment.path }, "a settled spool file was not removed"),
    );
    removing = Promise.all([removing, gone]);
  }

  return {
    tidy,
    has: (path: string): boolean => segments.has(path),
    paths: (): string[] => [...segments.keys()],
    bytes: (): number => [...segments.values()].reduce((sum, { size }) => sum + size, 0),
    add(file: Pick<Segment, "path" | "size" | "holds" | "handle">): Segment {
      const segment = { ...file, busy: false, gone: false };
      segments.set(segment.path, segment);
      return segment;
    },
    forget(hold: Id): void {
      for (const segment of segments.values()) {
        if (segment.holds.delete(hold)) tidy(segment);
      }
    },
    /** Removes what is settled, and leaves the other files for the next gateway. */
    async close(): Promise<void> {
      await removing;
      await Promise.all([...segments.values()].map(endWriting));
    },
  };
}

/** Begins a file that survives a power failure, empty as it is. */
export async function beginSegment(shelf: Shelf, folder: string): Promise<Segment> {
  const path = join(folder, `${newId()}${SUFFIX}`);
  const handle = await open(path, "ax", 0o600);
  const segment = shelf.add({ path, size: 0, holds: new Set(), handle });
  await flushFolder(folder);
  return segment;
}

/**
 * Puts text on disk, at the end of the file.
 *
 * @throws Error where it may not be there: nothing must be written behind it then
 */
export async function flush({ path, handle }: Segment, text: Buffer): Promise<void> {
  if (!handle) throw new Error(`${path} is not open`);
  await handle.appendFile(text);
  await handle.datasync();
  // Who took us for gone may have removed it: what others do not find under its name is not kept
  const [there, ours] = await Promise.all([stat(path), handle.stat()]);
  if (there.ino !== ours.ino) throw new Error(`${path} was replaced by someone`);
}

/** Nothing more is written to the file; what is in it stays. */
export async function endWriting(segment: Segment): Promise<void> {
  const { handle } = segment;
  segment.handle = undefined;
  await handle?.close();
}

async function discard(segment: Segment): Promise<void> {
  await endWriting(segment);
  await rm(segment.path, { force: true });
}
