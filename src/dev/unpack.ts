import { gunzipSync, inflateRawSync } from "node:zlib";

const ZIP_END = 0x06054b50;
const ZIP_ENTRY = 0x02014b50;
const ZIP_END_BYTES = 22;
const STORED = 0;
const TAR_BLOCK = 512;

/**
 * One file out of a zip archive (a Python wheel is one), chosen by its name.
 *
 * @throws Error when the archive is damaged or has no such file
 */
export function fileFromZip(archive: Buffer, wanted: (name: string) => boolean): Buffer {
  const end = archive.lastIndexOf(littleEndian(ZIP_END));
  if (end < 0 || end + ZIP_END_BYTES > archive.length) throw new Error("not a zip archive");
  let at = archive.readUInt32LE(end + 16);
  while (archive.readUInt32LE(at) === ZIP_ENTRY) {
    const nameBytes = archive.readUInt16LE(at + 28);
    const name = archive.toString("utf8", at + 46, at + 46 + nameBytes);
    if (wanted(name)) return contentOf(archive, at);
    at += 46 + nameBytes + archive.readUInt16LE(at + 30) + archive.readUInt16LE(at + 32);
  }
  throw new Error("the archive does not hold the file");
}

/**
 * One file out of a tar.gz archive, chosen by its name.
 *
 * @throws Error when the archive is damaged or has no such file
 */
export function fileFromTarGz(archive: Buffer, wanted: (name: string) => boolean): Buffer {
  const tar = gunzipSync(archive);
  for (let at = 0; at + TAR_BLOCK <= tar.length; ) {
    const name = tar.toString("utf8", at, at + 100).replace(/\0.*$/s, "");
    const bytes = Number.parseInt(tar.toString("latin1", at + 124, at + 136), 8) || 0;
    const start = at + TAR_BLOCK;
    if (wanted(name)) return tar.subarray(start, start + bytes);
    at = start + Math.ceil(bytes / TAR_BLOCK) * TAR_BLOCK;
  }
  throw new Error("the archive does not hold the file");
}

function contentOf(archive: Buffer, entry: number): Buffer {
  const method = archive.readUInt16LE(entry + 10);
  const bytes = archive.readUInt32LE(entry + 20);
  const local = archive.readUInt32LE(entry + 42);
  const start = local + 30 + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28);
  const packed = archive.subarray(start, start + bytes);
  return method === STORED ? packed : inflateRawSync(packed);
}

function littleEndian(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
