import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Sql } from "../db/sql.js";
import type {
  DeleteModelAliasRequest,
  ListModelAliasesRequest,
  ModelAliasSchema,
  SetModelAliasRequest,
} from "../gen/keytoll/v1/model_pb.js";
import { deleteAlias, listAliases, type ModelAlias, setAlias } from "./aliases.js";
import type { OwnerCaller } from "./caller.js";

interface Call {
  authorization: string | undefined;
}

export interface ModelHandling {
  sql: Sql;
  requireOwner(call: Call): Promise<OwnerCaller>;
}

/** The handlers of ModelService. */
export const modelHandlers = ({ sql, requireOwner }: ModelHandling) => ({
  async listModelAliases(_: ListModelAliasesRequest, call: Call) {
    const owner = await requireOwner(call);
    return { data: (await listAliases(sql, owner)).map(encodeAlias) };
  },
  async setModelAlias({ alias, model }: SetModelAliasRequest, call: Call) {
    const owner = await requireOwner(call);
    return { modelAlias: encodeAlias(await setAlias(sql, owner, alias, model)) };
  },
  async deleteModelAlias({ alias }: DeleteModelAliasRequest, call: Call) {
    const owner = await requireOwner(call);
    await deleteAlias(sql, owner, alias);
    return {};
  },
});

const encodeAlias = (row: ModelAlias): MessageInitShape<typeof ModelAliasSchema> => ({
  alias: row.alias,
  model: row.model,
  createdAt: timestampFromDate(row.createdAt),
  updatedAt: timestampFromDate(row.updatedAt),
});
