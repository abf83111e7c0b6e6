import { readdir, readFile, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import type { Log } from "../../base/log.js";
import { abandonedFolders } from "./spool-folder.js";
import { readRecords, type SpoolRecord } from "./spool-record.js";
import { type Shelf, SUFFIX } from "./spool-shelf.js";

/**
 * Puts the files that gateways which are gone have left below `root` on our shelf. Several may do
 * so at once: holds end once, whoever comes first.
 *
 * @returns their records; nothing of a file that is on the shelf already
 */
export async function takeUpLeft(root: string, shelf: Shelf, log: Log): Promise<SpoolRecord[]> {
  const found: SpoolRecord[] = [];
  for (const folder of await abandonedFolders(root)) {
    try {
      found.push(...(await takeUpFolder(folder, shelf, log)));
    } catch (error) {
      log.error({ err: error, folder }, "a spool that was left behind cannot be read");
    }
  }
  return found;
}

async function takeUpFolder(folder: string, shelf: Shelf, log: Log): Promise<SpoolRecord[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(SUFFIX)).sort();
  if (names.length === 0) await rm(folder, { recursive: true, force: true });
  const found: SpoolRecord[] = [];
  for (const path of names.map((name) => join(folder, name))) {
    if (!shelf.has(path)) found.push(...(await takeUpFile(path, shelf, log)));
  }
  return found;
}

/** A torn tail is cut off, loudly: nobody was told that it was accepted. */
async function takeUpFile(path: string, shelf: Shelf, log: Log): Promise<SpoolRecord[]> {
  const text = await readFile(path);
  const { records, sound } = readRecords(text);
  if (sound < text.length) {
    log.error({ file: path, sound, lost: text.length - sound }, "the spool's tail was torn");
    await truncate(path, sound);
  }
  const holds = new Set(records.map(({ ending }) => ending.holdId));
  const segment = shelf.add({ path, size: sound, holds, handle: undefined });
  shelf.tidy(segment);
  if (records.length > 0) log.warn({ file: path, records: records.length }, "a spool was left");
  return records;
}
