import { refuseField } from "../../base/errors.js";
import { isAbsent, isObject, type Json } from "../values.js";

/** A function of the caller's that a model may call. */
export interface Tool {
  name: string;
  description: string | undefined;
  schema: Json;
  strict: boolean;
}

/** Which tools the model may or must call. */
export interface ToolChoice {
  /** A name where it must be that one tool. */
  tool: "auto" | "any" | "none" | { name: string };
  parallel: boolean;
}

/**
 * @throws invalid_request_error  also for tools that run at the upstream, whose cost nobody here
 *   could tell, and for those whose schema only one maker's models know
 */
export function readTools(tools: unknown): Tool[] {
  if (isAbsent(tools)) return [];
  if (!Array.isArray(tools)) throw refuseField("tools", "must be a list");
  return tools.map((tool: unknown, i) => {
    const path = `tools[${i}]`;
    if (!isObject(tool)) throw refuseField(path, "must be an object");
    const { type, name, description, input_schema: schema, strict } = tool;
    if (!isAbsent(type) && type !== "custom") {
      throw refuseField(`${path}.type`, "only tools with a schema of their own are supported");
    }
    if (typeof name !== "string" || name === "") throw refuseField(`${path}.name`, "must be set");
    if (!isObject(schema)) throw refuseField(`${path}.input_schema`, "must be an object");
    return {
      name,
      description: typeof description === "string" ? description : undefined,
      schema,
      strict: strict === true,
    };
  });
}

/** @throws invalid_request_error  one that cannot be followed */
export function readToolChoice(choice: unknown, tools: readonly Tool[]): ToolChoice | undefined {
  if (isAbsent(choice)) return undefined;
  if (!isObject(choice)) throw refuseField("tool_choice", "must be an object");
  const parallel = choice.disable_parallel_tool_use !== true;
  switch (choice.type) {
    case "auto":
    case "none":
      return { tool: choice.type, parallel };
    case "any":
      if (tools.length === 0) throw refuseField("tool_choice", "there are no tools");
      return { tool: "any", parallel };
    case "tool": {
      const named = tools.find(({ name }) => name === choice.name);
      if (named === undefined) throw refuseField("tool_choice.name", "is not one of the tools");
      return { tool: { name: named.name }, parallel };
    }
    default:
      throw refuseField("tool_choice.type", "must be auto, any, tool or none");
  }
}
