import { randomBytes } from "node:crypto";
import { Connection } from "@temporalio/client";
import { msToTs } from "@temporalio/common/lib/time.js";
import { inject, vi } from "vitest";
import { SEARCH_ATTRIBUTES } from "../../workflows/contract.js";

/** host:port of the Temporal server that all test files share. */
export const temporalAddress = (): string => inject("temporalAddress");

/**
 * Redis for this test file, in a logical database of its own (a file runs in a process of its own,
 * at most two at a time). Undefined where no redis-server is installed: such tests use
 * `describe.skipIf(!redisUrl())`.
 */
export function redisUrl(): string | undefined {
  const url = inject("redisUrl");
  return url && `${url}/${Number(process.env.VITEST_POOL_ID ?? 0) % 16}`;
}

const KEYWORD = 2;
/** Registers a Temporal namespace with our search attributes and waits until it can be used. */
export async function freshNamespace(): Promise<string> {
  const namespace = `test-${randomBytes(6).toString("hex")}`;
  const connection = await Connection.connect({ address: temporalAddress() });
  try {
    await connection.workflowService.registerNamespace({
      namespace,
      workflowExecutionRetentionPeriod: msToTs("1 day"),
    });
    const searchAttributes = Object.fromEntries(SEARCH_ATTRIBUTES.map((name) => [name, KEYWORD]));
    await vi.waitFor(
      () => connection.operatorService.addSearchAttributes({ namespace, searchAttributes }),
      { timeout: 20_000, interval: 50 },
    );
    await vi.waitFor(
      () =>
        connection.workflowService.countWorkflowExecutions({
          namespace,
          query: SEARCH_ATTRIBUTES.map((name) => `${name} = "x"`).join(" OR "),
        }),
      { timeout: 20_000, interval: 50 },
    );
    return namespace;
  } finally {
    await connection.close();
  }
}
