import type { Asked } from "./kind.js";

/** Whether an upstream takes a top-level parameter of a request. */
export type Accepts = (parameter: string) => boolean;

/**
 * The parameters of OpenAI's chat completions and embeddings that servers of that dialect know,
 * beside those that are ours to decide. A strict one answers 400 to any other.
 */
export const STRICT: ReadonlySet<string> = new Set([
  ...["messages", "temperature", "top_p", "stop", "seed", "user", "logit_bias"],
  ...["presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "response_format"],
  ...["tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"],
  ...["input", "encoding_format", "dimensions"],
]);

/** The same request without the parameters that an upstream would refuse. */
export function acceptable<Request extends Asked>(request: Request, accepts: Accepts): Request {
  const passed = Object.entries(request.passed).filter(([parameter]) => accepts(parameter));
  return { ...request, passed: Object.fromEntries(passed) };
}
