import { ApplicationFailure, workflowInfo } from "@temporalio/workflow";
import type { Order } from "./contract.js";

const LONGEST_NAME = 100;
const LONGEST_REASON = 200;

/**
 * Refuses an order without who and why, before anything of it is recorded.
 *
 * @throws ApplicationFailure that names what is missing
 */
export function checkOrder(order: Partial<Order> | undefined): void {
  checkText("by", order?.by, LONGEST_NAME);
  checkText("reason", order?.reason, LONGEST_REASON);
}

function checkText(name: string, text: unknown, longest: number): void {
  const length = typeof text === "string" ? text.trim().length : 0;
  if (length < 1 || length > longest) {
    throw ApplicationFailure.nonRetryable(`${name}: wants 1 to ${longest} characters`);
  }
}

/** Which version of the code runs this, for an operator's eyes only. */
export const codeVersion = (): string => workflowInfo().currentBuildId ?? "unknown";
