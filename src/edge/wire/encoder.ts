import { create, type DescField, type DescMessage, ScalarType, toBinary } from "@bufbuild/protobuf";
import { FeatureSet_FieldPresence as Presence } from "@bufbuild/protobuf/wkt";

/**
 * Writes a field's tag and value at `at`. @returns where the next one goes; past the end of `out`
 * where there was no room
 */
type Writer = (out: Buffer, at: number, message: Values) => number;
type Values = Record<string, unknown>;

const VARINT = 0;
const LENGTH = 2;
/** Larger messages than this are rare, and the library's own writer takes them. */
const SCRATCH = 256 * 1024;
const scratch = Buffer.allocUnsafe(SCRATCH);

/**
 * Writes messages of one type in a fifth of the library's time, which looks every field up by
 * reflection: here each field has its writer, made once. Fields that are not set may be absent.
 * A message in which other fields are set than integers, enums, flags, texts, and messages of such,
 * alone, in lists or by name, is left to the library.
 */
export function encoderOf(schema: DescMessage): (message: Values) => Buffer {
  const write = writerOf(schema, new Set());
  const slowly = (message: Values) => Buffer.from(toBinary(schema, create(schema, message)));
  return (message) => {
    const end = write(scratch, 0, message);
    return end > SCRATCH ? slowly(message) : Buffer.from(scratch.subarray(0, end));
  };
}

/** Their messages are plain JSON or plain values, not what their fields say. */
const UNBOXED = ["google/protobuf/struct", "google/protobuf/wrappers"];

/** Where a field ends that we do not write: past the end of anything. */
const BEYOND = Number.POSITIVE_INFINITY;

function writerOf(schema: DescMessage, above: Set<DescMessage>): Writer {
  const within = new Set([...above, schema]);
  const writers = [...schema.fields]
    .sort((a, b) => a.number - b.number)
    .map((field) => fieldWriter(field, within) ?? leaverOf(field));
  return (out, at, message) => {
    let end = at;
    for (const write of writers) {
      end = write(out, end, message);
      if (end === BEYOND) return BEYOND;
    }
    return end;
  };
}

/** For a field that we do not write: nothing where it is not set. */
function leaverOf({ localName, oneof, fieldKind }: DescField): Writer {
  return (_, at, message) => {
    if (oneof) {
      const chosen = message[oneof.localName] as { case?: string } | undefined;
      return chosen?.case === localName ? BEYOND : at;
    }
    const value = message[localName];
    const isEmpty =
      fieldKind === "list" || fieldKind === "map"
        ? Object.keys(value ?? {}).length === 0
        : value === undefined;
    return isEmpty ? at : BEYOND;
  };
}

function fieldWriter(field: DescField, above: Set<DescMessage>): Writer | undefined {
  const { localName, oneof } = field;
  if (field.fieldKind === "map") return mapWriter(field);
  const write = valueWriter(field, above);
  if (!write) return undefined;
  if (oneof) {
    const name = oneof.localName;
    return (out, at, message) => {
      const chosen = message[name] as { case?: string; value?: unknown } | undefined;
      return chosen?.case === localName ? write(out, at, chosen.value) : at;
    };
  }
  if (field.fieldKind === "list") {
    return (out, at, message) => {
      let end = at;
      for (const item of (message[localName] as unknown[] | undefined) ?? []) {
        end = write(out, end, item);
      }
      return end;
    };
  }
  if (field.presence === Presence.IMPLICIT) {
    return (out, at, message) => {
      const value = message[localName];
      return isDefault(value) ? at : write(out, at, value);
    };
  }
  if (field.presence !== Presence.EXPLICIT) return undefined;
  return (out, at, message) => {
    const value = message[localName];
    return value === undefined ? at : write(out, at, value);
  };
}

/** Of texts by texts. */
function mapWriter(field: DescField & { fieldKind: "map" }): Writer | undefined {
  const { localName, mapKind, mapKey } = field;
  const isText = mapKind === "scalar" && field.scalar === ScalarType.STRING;
  if (!isText || mapKey !== ScalarType.STRING) return undefined;
  const [writeKey, writeValue] = [textWriter(8 + LENGTH), textWriter(16 + LENGTH)];
  const write = messageWriter(field.number * 8 + LENGTH, (out, at, { key, value }) =>
    writeValue(out, writeKey(out, at, key), value),
  );
  return (out, at, message) => {
    let end = at;
    for (const [key, value] of Object.entries(message[localName] ?? {})) {
      end = write(out, end, { key, value });
    }
    return end;
  };
}

const isDefault = (value: unknown): boolean =>
  value === undefined || value === "" || value === 0 || value === 0n || value === false;

type ValueWriter = (out: Buffer, at: number, value: unknown) => number;

function valueWriter(field: DescField, above: Set<DescMessage>): ValueWriter | undefined {
  const tag = (type: number) => field.number * 8 + type;
  if (field.fieldKind === "enum") return integerWriter(tag(VARINT));
  if (field.fieldKind === "message" || (field.fieldKind === "list" && field.message)) {
    // A type that contains itself has no end of writers
    if (field.delimitedEncoding || above.has(field.message)) return undefined;
    if (UNBOXED.includes(field.message.file.name)) return undefined;
    return messageWriter(tag(LENGTH), writerOf(field.message, above));
  }
  if (field.fieldKind === "list" && field.scalar === ScalarType.STRING) {
    return textWriter(tag(LENGTH));
  }
  if (field.fieldKind !== "scalar") return undefined;
  switch (field.scalar) {
    case ScalarType.STRING:
      return textWriter(tag(LENGTH));
    case ScalarType.INT32:
    case ScalarType.BOOL:
      return integerWriter(tag(VARINT));
    case ScalarType.INT64:
    case ScalarType.UINT64:
      return field.longAsString ? undefined : integerWriter(tag(VARINT));
    default:
      return undefined;
  }
}

function integerWriter(tag: number): ValueWriter {
  return (out, at, value) => {
    const start = varint(out, at, tag);
    const number = Number(value);
    // Negative ones are written as if they were of 64 bits, and large ones digit by digit
    if (number >= 0 && number <= Number.MAX_SAFE_INTEGER) return varint(out, start, number);
    return longVarint(out, start, BigInt.asUintN(64, BigInt(value as bigint)));
  };
}

function textWriter(tag: number): ValueWriter {
  return (out, at, value) => {
    const text = value as string;
    const length = Buffer.byteLength(text);
    const from = varint(out, varint(out, at, tag), length);
    if (from + length <= out.length) out.write(text, from);
    return from + length;
  };
}

function messageWriter(tag: number, write: Writer): ValueWriter {
  return (out, at, value) => {
    const start = varint(out, at, tag);
    const end = write(out, start + 1, value as Values);
    if (end === BEYOND) return BEYOND;
    const length = end - start - 1;
    // Room was left for a length of one byte: a longer one moves what follows
    const from = start + sizeOf(length);
    if (from > start + 1) out.copyWithin(from, start + 1, end);
    varint(out, start, length);
    return from + length;
  };
}

function varint(out: Buffer, at: number, value: number): number {
  let [end, rest] = [at, value];
  for (; rest > 0x7f; rest = Math.floor(rest / 0x80)) out[end++] = (rest % 0x80) | 0x80;
  out[end++] = rest;
  return end;
}

function longVarint(out: Buffer, at: number, value: bigint): number {
  let [end, rest] = [at, value];
  for (; rest > 0x7fn; rest >>= 7n) out[end++] = Number(rest & 0x7fn) | 0x80;
  out[end++] = Number(rest);
  return end;
}

function sizeOf(length: number): number {
  let size = 1;
  for (let rest = length; rest > 0x7f; rest = Math.floor(rest / 0x80)) size += 1;
  return size;
}
