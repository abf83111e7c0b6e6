import { type Client, isGrpcServiceError } from "@temporalio/client";
import { SEARCH_ATTRIBUTES } from "../../workflows/contract.js";

/** temporal.api.enums.v1.IndexedValueType */
const KEYWORD = 2;
/** gRPC. */
const ALREADY_EXISTS = 6;

/**
 * Registers the search attributes that are missing, so that operators can look for accounts, keys
 * and periods.
 */
export async function ensureSearchAttributes(client: Client): Promise<void> {
  const { namespace } = client.options;
  const { operatorService } = client.connection;
  const known = await operatorService.listSearchAttributes({ namespace });
  const missing = SEARCH_ATTRIBUTES.filter((name) => !(name in known.customAttributes));
  if (missing.length === 0) return;
  const searchAttributes = Object.fromEntries(missing.map((name) => [name, KEYWORD]));
  try {
    await operatorService.addSearchAttributes({ namespace, searchAttributes });
  } catch (error) {
    const exists = isGrpcServiceError(error) && error.code === ALREADY_EXISTS;
    if (!exists) throw error;
  }
}
