import { isObject, type Json } from "./demo-request.js";

/** Nesting at which a schema that refers to itself ends. */
const DEEPEST = 8;
const FORMATS: Record<string, string> = {
  date: "2026-01-01",
  "date-time": "2026-01-01T00:00:00Z",
  time: "00:00:00Z",
  email: "demo@example.com",
  uri: "https://example.com/",
  uuid: "00000000-0000-4000-8000-000000000000",
};

/**
 * The plainest value that fits a JSON Schema, as far as the demo models know schemas: types, enums,
 * references, alternatives and bounds.
 */
export function sampleOf(schema: unknown, root: unknown = schema, depth = 0): unknown {
  if (!isObject(schema) || depth > DEEPEST) return {};
  const inner = (part: unknown) => sampleOf(part, root, depth + 1);
  if ("const" in schema) return schema.const;
  if (Array.isArray(schema.enum)) return schema.enum[0];
  if (typeof schema.$ref === "string") return inner(resolve(schema.$ref, root));
  const [alternative] = [schema.anyOf, schema.oneOf].flatMap((all) => all ?? []);
  if (alternative !== undefined) return inner(alternative);
  if (Array.isArray(schema.allOf)) return Object.assign({}, ...schema.allOf.map(inner));
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case "string":
      return sampleText(schema);
    case "integer":
    case "number":
      return sampleNumber(schema);
    case "boolean":
      return true;
    case "null":
      return null;
    case "array":
      return Array.from({ length: Number(schema.minItems ?? 1) }, () => inner(schema.items));
    default:
      return sampleObject(schema, inner);
  }
}

function sampleObject({ properties }: Json, inner: (part: unknown) => unknown): Json {
  const fields = isObject(properties) ? Object.entries(properties) : [];
  return Object.fromEntries(fields.map(([name, schema]) => [name, inner(schema)]));
}

function sampleText({ format, minLength, maxLength }: Json): string {
  const text = FORMATS[String(format)] ?? "demo".padEnd(Number(minLength ?? 0), "o");
  return typeof maxLength === "number" ? text.slice(0, maxLength) : text;
}

function sampleNumber({ minimum, exclusiveMinimum, maximum }: Json): number {
  if (typeof minimum === "number") return minimum;
  if (typeof exclusiveMinimum === "number") return exclusiveMinimum + 1;
  return typeof maximum === "number" ? Math.min(1, maximum) : 1;
}

/** What `#/$defs/name` stands for. */
function resolve(reference: string, root: unknown): unknown {
  const steps = reference.replace(/^#\/?/, "").split("/").filter(Boolean);
  return steps.reduce<unknown>((at, step) => (isObject(at) ? at[step] : undefined), root);
}
