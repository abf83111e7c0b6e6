import {
  create,
  type DescEnum,
  type DescField,
  type DescMessage,
  type JsonObject,
  type JsonValue,
  type MessageShape,
  ScalarType,
} from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { TimestampSchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../../base/errors.js";
import { parseNgonka } from "../../base/money.js";
import { wordOf } from "./to-rest.js";

const INT32_MAX = 2_147_483_647;
const UTC = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.\d{1,9})?(?:Z|\+00:00)$/;

/**
 * Reads a REST body into a message: snake_case names, amounts as decimal strings, times as ISO 8601
 * UTC, enums as short words (`"read_only"`), null for what is absent.
 *
 * @param accepts names of the fields that the body may have; all when absent
 * @throws invalid_request_error naming the field with its path: unknown, of the wrong type, out of
 *   range
 */
export function fromRest<Desc extends DescMessage>(
  schema: Desc,
  json: JsonValue,
  accepts?: ReadonlySet<string>,
): MessageShape<Desc> {
  if (!isObject(json)) throw refuseField("body", "must be a JSON object");
  const message = create(schema);
  readInto(reflect(schema, message), json, "", accepts);
  return message;
}

/**
 * Sets one field from the text of a path segment or of a query parameter. A time may be a day there,
 * which means its first moment.
 */
export function setFromText(target: ReflectMessage, field: DescField, text: string): void {
  target.set(field, readValue(field, inJson(field, text), field.name));
}

function inJson(field: DescField, text: string): JsonValue {
  if (field.fieldKind === "scalar" && field.scalar === ScalarType.INT32) {
    return /^(0|[1-9][0-9]{0,9})$/.test(text) ? Number(text) : text;
  }
  const isTime =
    field.fieldKind === "message" && field.message.typeName === TimestampSchema.typeName;
  return isTime && /^\d{4}-\d{2}-\d{2}$/.test(text) ? `${text}T00:00:00Z` : text;
}

function readInto(
  target: ReflectMessage,
  json: JsonObject,
  path: string,
  accepts?: ReadonlySet<string>,
): void {
  for (const [name, value] of Object.entries(json)) {
    const field = target.fields.find((each) => each.name === name);
    if (!field || (accepts && !accepts.has(name))) throw refuseField(path + name, "unknown field");
    if (value === null) refuseMissingValue(field, path + name);
    else readField(target, field, value, path + name);
  }
}

function refuseMissingValue(field: DescField, path: string): void {
  const optional = field.proto.proto3Optional || field.oneof !== undefined;
  if (field.fieldKind === "scalar" && !optional) throw refuseField(path, "must not be null");
}

function readField(target: ReflectMessage, field: DescField, value: JsonValue, path: string): void {
  if (field.fieldKind === "list") {
    if (!Array.isArray(value)) throw refuseField(path, "must be a list");
    const list = target.get(field);
    value.forEach((item, i) => {
      list.add(readItem(field, item, `${path}[${i}]`));
    });
  } else if (field.fieldKind === "map") {
    if (!isObject(value)) throw refuseField(path, "must be an object");
    const map = target.get(field);
    for (const [key, item] of Object.entries(value)) {
      if (key === "__proto__") throw refuseField(`${path}.${key}`, "this name cannot be used");
      checkStorable(key, path);
      map.set(key, readScalar(field.scalar ?? ScalarType.STRING, item, `${path}.${key}`));
    }
  } else {
    target.set(field, readValue(field, value, path));
  }
}

function readItem(field: DescField & { fieldKind: "list" }, item: JsonValue, path: string) {
  switch (field.listKind) {
    case "scalar":
      return readScalar(field.scalar, item, path);
    case "enum":
      return readEnum(field.enum, item, path);
    case "message":
      return readMessage(field.message, item, path);
  }
}

function readValue(field: DescField, value: JsonValue, path: string): unknown {
  switch (field.fieldKind) {
    case "scalar":
      return readScalar(field.scalar, value, path);
    case "enum":
      return readEnum(field.enum, value, path);
    case "message":
      return readMessage(field.message, value, path);
    default:
      throw refuseField(path, "must not be a list");
  }
}

function readMessage(schema: DescMessage, value: JsonValue, path: string): ReflectMessage {
  if (schema.typeName === TimestampSchema.typeName) {
    return reflect(TimestampSchema, timestampFromDate(readTime(value, path)));
  }
  if (!isObject(value)) throw refuseField(path, "must be an object");
  const target = reflect(schema, create(schema));
  readInto(target, value, `${path}.`);
  return target;
}

/** A time in ISO 8601, UTC. @throws invalid_request_error */
export function readTime(value: JsonValue, path: string): Date {
  const problem = 'must be an ISO 8601 time in UTC, like "2026-11-23T12:00:00Z"';
  const match = typeof value === "string" ? UTC.exec(value) : null;
  if (!match || typeof value !== "string") throw refuseField(path, problem);
  const time = new Date(value);
  // A day that does not exist, such as 30 February, reads as a later one.
  const exists = !Number.isNaN(time.getTime()) && time.toISOString().startsWith(match[1] ?? "");
  if (!exists) throw refuseField(path, problem);
  return time;
}

function readEnum(desc: DescEnum, value: JsonValue, path: string): number {
  const words = desc.values.filter((each) => each.number !== 0).map(wordOf);
  const found = desc.values.find((each) => each.number !== 0 && wordOf(each) === value);
  if (!found) throw refuseField(path, `must be one of ${words.map((w) => `"${w}"`).join(", ")}`);
  return found.number;
}

function readScalar(type: ScalarType, value: JsonValue, path: string): unknown {
  switch (type) {
    case ScalarType.STRING:
      if (typeof value !== "string") throw refuseField(path, "must be a string");
      checkStorable(value, path);
      return value;
    case ScalarType.BOOL:
      if (typeof value !== "boolean") throw refuseField(path, "must be true or false");
      return value;
    case ScalarType.INT32: {
      const whole = typeof value === "number" && Number.isInteger(value);
      if (!whole || value < 0 || value > INT32_MAX) {
        throw refuseField(path, `must be a whole number from 0 to ${INT32_MAX}`);
      }
      return value;
    }
    case ScalarType.DOUBLE:
      if (typeof value !== "number") throw refuseField(path, "must be a number");
      return value;
    case ScalarType.INT64: {
      const amount = typeof value === "string" ? parseNgonka(value) : undefined;
      if (amount === undefined) {
        throw refuseField(path, 'must be a decimal string of ngonka, like "1000000000"');
      }
      return amount;
    }
    default:
      throw new Error(`${path}: no REST body has fields of type ${ScalarType[type]}`);
  }
}

/**
 * Postgres has no text with the character U+0000, and neither it nor protobuf one with half a
 * surrogate pair.
 */
function checkStorable(text: string, path: string): void {
  if (text.includes("\0")) throw refuseField(path, "must not contain the character U+0000");
  if (/\p{Cs}/u.test(text)) throw refuseField(path, "must not contain half a surrogate pair");
}

function isObject(json: JsonValue): json is JsonObject {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}
