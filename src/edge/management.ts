import { AccountService } from "../gen/keytoll/v1/account_pb.js";
import { AdminService } from "../gen/keytoll/v1/admin_pb.js";
import { AuthService } from "../gen/keytoll/v1/auth_pb.js";
import { KeyService } from "../gen/keytoll/v1/key_pb.js";
import { ModelService } from "../gen/keytoll/v1/model_pb.js";
import type { ServiceTable } from "./wire/handlers.js";
import { type RestRoute, restRoute } from "./wire/rest.js";

const PAGE = ["cursor", "limit"] as const;
const KEYS = "/api/management/keys";
const KEY = `${KEYS}/:management_key_id` as const;
const MODELS = "/api/management/models";
const CHILDREN = `${KEY}/children` as const;
const CHILD = `${CHILDREN}/:child_key_id` as const;

/** The REST routes under /api: each is the RPC method of the same noun, called in process. */
export function managementRoutes(services: ServiceTable): RestRoute[] {
  return [
    ...ownerRoutes(services),
    ...managementKeyRoutes(services),
    ...childKeyRoutes(services),
    ...modelRoutes(services),
    ...adminRoutes(services),
  ];
}

function ownerRoutes(services: ServiceTable): RestRoute[] {
  const { register, login } = AuthService.method;
  const { getAccount, listTransfers } = AccountService.method;
  return [
    restRoute(services, { on: "POST /api/auth/register", method: register, status: 201 }),
    restRoute(services, { on: "POST /api/auth/login", method: login }),
    restRoute(services, { on: "GET /api/account", method: getAccount }),
    restRoute(services, { on: "GET /api/account/transfers", method: listTransfers, query: PAGE }),
  ];
}

function managementKeyRoutes(services: ServiceTable): RestRoute[] {
  const method = KeyService.method;
  return [
    restRoute(services, { on: `POST ${KEYS}`, method: method.createManagementKey, status: 201 }),
    restRoute(services, { on: `GET ${KEYS}`, method: method.listManagementKeys, query: PAGE }),
    restRoute(services, { on: `GET ${KEY}`, method: method.getManagementKey }),
    restRoute(services, { on: `PATCH ${KEY}`, method: method.updateManagementKey }),
    restRoute(services, { on: `DELETE ${KEY}`, method: method.deleteManagementKey }),
    restRoute(services, { on: `POST ${KEY}/rotate`, method: method.rotateManagementKey }),
  ];
}

function childKeyRoutes(services: ServiceTable): RestRoute[] {
  const method = KeyService.method;
  const filters = [...PAGE, "status", "q"];
  return [
    restRoute(services, { on: `POST ${CHILDREN}`, method: method.createChildKey, status: 201 }),
    restRoute(services, { on: `GET ${CHILDREN}`, method: method.listChildKeys, query: filters }),
    restRoute(services, { on: `GET ${CHILD}`, method: method.getChildKey }),
    restRoute(services, { on: `PATCH ${CHILD}`, method: method.updateChildKey }),
    restRoute(services, { on: `DELETE ${CHILD}`, method: method.deleteChildKey }),
    restRoute(services, { on: `POST ${CHILD}/rotate`, method: method.rotateChildKey }),
  ];
}

function modelRoutes(services: ServiceTable): RestRoute[] {
  const { listModelAliases, setModelAlias, deleteModelAlias } = ModelService.method;
  return [
    restRoute(services, { on: `GET ${MODELS}`, method: listModelAliases }),
    restRoute(services, { on: `PUT ${MODELS}/*alias`, method: setModelAlias }),
    restRoute(services, { on: `DELETE ${MODELS}/*alias`, method: deleteModelAlias }),
  ];
}

function adminRoutes(services: ServiceTable): RestRoute[] {
  const method = AdminService.method;
  const account = "/api/admin/accounts/:account_id" as const;
  return [
    restRoute(services, {
      on: "GET /api/admin/accounts",
      method: method.listAccounts,
      query: [...PAGE, "email"],
    }),
    restRoute(services, { on: `POST ${account}/credits`, method: method.creditAccount }),
    restRoute(services, { on: `POST ${account}/suspend`, method: method.suspendAccount }),
    restRoute(services, { on: `POST ${account}/resume`, method: method.resumeAccount }),
    restRoute(services, { on: `PUT ${account}/limits`, method: method.setAccountLimits }),
    restRoute(services, { on: `GET ${account}/limits`, method: method.getAccountLimits }),
    restRoute(services, { on: "GET /api/admin/models", method: method.listModelPrices }),
    restRoute(services, { on: "PUT /api/admin/models/*model", method: method.setModelPrice }),
    restRoute(services, { on: "GET /api/admin/status", method: method.getStatus }),
  ];
}
