import type {
  DescEnum,
  DescField,
  DescMessage,
  JsonObject,
  JsonValue,
  MessageShape,
} from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { TimestampSchema, timestampDate } from "@bufbuild/protobuf/wkt";

/**
 * Writes a message as REST shows it. Every field is there; one that is not set is null.
 */
export function toRest<Desc extends DescMessage>(
  schema: Desc,
  message: MessageShape<Desc>,
): JsonObject {
  return writeMessage(reflect(schema, message));
}

function writeMessage(source: ReflectMessage): JsonObject {
  const json: JsonObject = {};
  for (const field of source.fields) json[field.name] = writeField(source, field);
  return json;
}

function writeField(source: ReflectMessage, field: DescField): JsonValue {
  switch (field.fieldKind) {
    case "list":
      return [...source.get(field)].map((item) => writeItem(field, item));
    case "map":
      return Object.fromEntries([...source.get(field)].map(([key, v]) => [key, writeScalar(v)]));
    case "message":
      return source.isSet(field) ? writeNested(source.get(field)) : null;
    case "enum":
      return source.isSet(field) ? writeEnum(field.enum, source.get(field)) : null;
    case "scalar": {
      const absent = (field.proto.proto3Optional || field.oneof) && !source.isSet(field);
      return absent ? null : writeScalar(source.get(field));
    }
  }
}

function writeItem(field: DescField & { fieldKind: "list" }, item: unknown): JsonValue {
  if (field.listKind === "message") return writeNested(item as ReflectMessage);
  return field.listKind === "enum" ? writeEnum(field.enum, item as number) : writeScalar(item);
}

function writeNested(source: ReflectMessage): JsonValue {
  if (source.desc.typeName !== TimestampSchema.typeName) return writeMessage(source);
  return timestampDate(source.message as MessageShape<typeof TimestampSchema>).toISOString();
}

function writeEnum(desc: DescEnum, number: number): JsonValue {
  const value = number === 0 ? undefined : desc.value[number];
  return value ? wordOf(value) : null;
}

function writeScalar(value: unknown): JsonValue {
  return typeof value === "bigint" ? value.toString() : (value as JsonValue);
}

/** The short word of an enum's value: KEY_STATUS_ACTIVE -> "active". */
export function wordOf(value: DescEnum["values"][number]): string {
  return value.name.slice(value.parent.sharedPrefix?.length ?? 0).toLowerCase();
}
