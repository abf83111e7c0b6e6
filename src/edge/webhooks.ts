import { WebhookService } from "../gen/keytoll/v1/webhook_pb.js";
import type { ServiceTable } from "./wire/handlers.js";
import { type RestRoute, restRoute } from "./wire/rest.js";

const ENDPOINTS = "/api/webhooks/endpoints";
const ENDPOINT = `${ENDPOINTS}/:endpoint_id` as const;
const DELIVERIES = `${ENDPOINT}/deliveries` as const;
const DELIVERY = `${DELIVERIES}/:delivery_id` as const;
const SETTINGS = "/api/webhooks/settings";

/** The REST routes under /api/webhooks: each is the RPC method of the same noun, called in process. */
export function webhookRoutes(services: ServiceTable): RestRoute[] {
  const method = WebhookService.method;
  const page = ["cursor", "limit"];
  return [
    restRoute(services, { on: `POST ${ENDPOINTS}`, method: method.createEndpoint, status: 201 }),
    restRoute(services, { on: `GET ${ENDPOINTS}`, method: method.listEndpoints, query: page }),
    restRoute(services, { on: `GET ${ENDPOINT}`, method: method.getEndpoint }),
    restRoute(services, { on: `PATCH ${ENDPOINT}`, method: method.updateEndpoint }),
    restRoute(services, { on: `DELETE ${ENDPOINT}`, method: method.deleteEndpoint }),
    restRoute(services, { on: `POST ${ENDPOINT}/rotate`, method: method.rotateEndpointSecret }),
    restRoute(services, { on: `POST ${ENDPOINT}/test`, method: method.testEndpoint }),
    restRoute(services, {
      on: `GET ${DELIVERIES}`,
      method: method.listDeliveries,
      query: [...page, "status"],
    }),
    restRoute(services, { on: `GET ${DELIVERY}`, method: method.getDelivery }),
    restRoute(services, { on: `POST ${DELIVERY}/redeliver`, method: method.redeliver }),
    restRoute(services, { on: `GET ${SETTINGS}`, method: method.getSettings }),
    restRoute(services, { on: `PATCH ${SETTINGS}`, method: method.updateSettings }),
  ];
}
