import type { MessageInitShape } from "@bufbuild/protobuf";
import { type FieldMask, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { refuseField } from "../base/errors.js";
import { checkId, checkPage } from "../base/field.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import {
  type CreateEndpointRequest,
  type DeleteEndpointRequest,
  type DeliverySchema,
  DeliveryStatus,
  type EndpointSchema,
  EndpointStatus,
  type GetDeliveryRequest,
  type GetEndpointRequest,
  type GetSettingsRequest,
  type ListDeliveriesRequest,
  type ListEndpointsRequest,
  type RedeliverRequest,
  type RotateEndpointSecretRequest,
  type TestEndpointRequest,
  type UpdateEndpointRequest,
  type UpdateSettingsRequest,
  WebhookService,
  type WebhookSettingsSchema,
} from "../gen/keytoll/v1/webhook_pb.js";
import type { CreateOnce, KeyedCall } from "../idempotency/creates.js";
import * as deliveries from "./deliveries.js";
import { payloadOf } from "./events.js";
import { changeSettings, getSettings } from "./settings.js";
import type { Delivery, Endpoint, Settings } from "./store.js";
import * as webhooks from "./webhooks.js";

interface Call extends KeyedCall {
  authorization: string | undefined;
  ip: string;
}

export interface WebhookHandling extends webhooks.Office {
  sql: Sql;
  /** Makes what comes with an idempotency key once. */
  createOnce: CreateOnce;
  requireOwner(call: Call): Promise<{ account: Id }>;
}

const DEFAULT_GRACE_SECONDS = 24 * 60 * 60;

/** The handlers of WebhookService. */
export const webhookHandlers = (handling: WebhookHandling) => ({
  ...endpointHandlers(handling),
  ...deliveryHandlers(handling),
  ...settingHandlers(handling),
});

const endpointOf = (request: { endpointId: string }) => checkId("endpoint_id", request.endpointId);

function endpointHandlers({ requireOwner, createOnce, ...office }: WebhookHandling) {
  const { createEndpoint, rotateEndpointSecret } = WebhookService.method;
  return {
    async createEndpoint(request: CreateEndpointRequest, call: Call) {
      const { account: scope } = await requireOwner(call);
      return await createOnce({ call, scope, method: createEndpoint, request }, async (sql) => {
        const made = await webhooks.createEndpoint({ ...office, sql }, scope, request);
        return { endpoint: encodeEndpoint(made.endpoint), secret: made.secret };
      });
    },
    async listEndpoints(request: ListEndpointsRequest, call: Call) {
      const { account } = await requireOwner(call);
      const page = await webhooks.listEndpoints(office.sql, account, checkPage(request));
      return { ...page, data: page.data.map(encodeEndpoint) };
    },
    async getEndpoint(request: GetEndpointRequest, call: Call) {
      const { account } = await requireOwner(call);
      const endpoint = await webhooks.getEndpoint(office.sql, account, endpointOf(request));
      return { endpoint: encodeEndpoint(endpoint) };
    },
    async updateEndpoint(request: UpdateEndpointRequest, call: Call) {
      const { account } = await requireOwner(call);
      const [id, patch] = [endpointOf(request), readPatch(request, ENDPOINT_FIELDS)];
      return {
        endpoint: encodeEndpoint(await webhooks.changeEndpoint(office, account, id, patch)),
      };
    },
    async deleteEndpoint(request: DeleteEndpointRequest, call: Call) {
      const { account } = await requireOwner(call);
      await webhooks.deleteEndpoint(office.sql, account, endpointOf(request));
      return {};
    },
    async rotateEndpointSecret(request: RotateEndpointSecretRequest, call: Call) {
      const { account } = await requireOwner(call);
      const [id, grace] = [endpointOf(request), request.graceSeconds ?? DEFAULT_GRACE_SECONDS];
      const creating = { call, scope: account, method: rotateEndpointSecret, request };
      return await createOnce(creating, async (sql) => {
        const here = { ...office, sql };
        const rotated = await webhooks.rotateEndpointSecret(here, account, id, grace);
        return {
          endpoint: encodeEndpoint(rotated.endpoint),
          secret: rotated.secret,
          previousSecretExpiresAt: timestampFromDate(rotated.previousUntil),
        };
      });
    },
    async testEndpoint(request: TestEndpointRequest, call: Call) {
      const { account } = await requireOwner(call);
      const delivery = await deliveries.testEndpoint(office.sql, account, endpointOf(request));
      return { delivery: encodeDelivery(delivery) };
    },
  };
}

function deliveryHandlers({ requireOwner, sql }: WebhookHandling) {
  const refOf = (request: { endpointId: string; deliveryId: string }) =>
    [endpointOf(request), checkId("delivery_id", request.deliveryId)] as const;
  return {
    async listDeliveries(request: ListDeliveriesRequest, call: Call) {
      const { account } = await requireOwner(call);
      const [id, status] = [endpointOf(request), readStatus(request.status)];
      const page = await deliveries.listDeliveries(sql, account, id, status, checkPage(request));
      return { ...page, data: page.data.map(encodeDelivery) };
    },
    async getDelivery(request: GetDeliveryRequest, call: Call) {
      const { account } = await requireOwner(call);
      const delivery = await deliveries.getDelivery(sql, account, ...refOf(request));
      const payload = payloadOf({ ...delivery, id: delivery.event });
      return { delivery: { ...encodeDelivery(delivery), payload } };
    },
    async redeliver(request: RedeliverRequest, call: Call) {
      const { account } = await requireOwner(call);
      const delivery = await deliveries.redeliver(sql, account, ...refOf(request));
      return { delivery: encodeDelivery(delivery) };
    },
  };
}

function settingHandlers({ requireOwner, sql }: WebhookHandling) {
  return {
    async getSettings(_request: GetSettingsRequest, call: Call) {
      const { account } = await requireOwner(call);
      return { settings: encodeSettings(await getSettings(sql, account)) };
    },
    async updateSettings(request: UpdateSettingsRequest, call: Call) {
      const { account } = await requireOwner(call);
      const patch = readPatch(request, SETTING_FIELDS);
      return { settings: encodeSettings(await changeSettings(sql, account, patch)) };
    },
  };
}

const ENDPOINT_FIELDS: Record<string, (it: UpdateEndpointRequest) => webhooks.EndpointPatch> = {
  url: ({ url }) => ({ url: url ?? "" }),
  events: ({ events }) => ({ events }),
  paused: ({ paused }) => {
    if (paused === undefined) throw refuseField("paused", "must be true or false");
    return { paused };
  },
};

const SETTING_FIELDS: Record<string, (it: UpdateSettingsRequest) => Partial<Settings>> = {
  balance_low_ngonka: ({ balanceLowNgonka }) => ({ balanceLow: balanceLowNgonka ?? null }),
  limit_threshold_percents: ({ limitThresholdPercents }) => ({ percents: limitThresholdPercents }),
};

function readPatch<Request extends { updateMask?: FieldMask | undefined }, Patch extends object>(
  request: Request,
  fields: Record<string, (request: Request) => Patch>,
): Patch {
  const paths = request.updateMask?.paths ?? [];
  if (paths.length === 0) throw refuseField("update_mask", "names no field to change");
  const parts = paths.map((path) => {
    const read = Object.hasOwn(fields, path) ? fields[path] : undefined;
    if (!read) throw refuseField("update_mask", `"${path.slice(0, 60)}" cannot be changed`);
    return read(request);
  });
  return Object.assign({}, ...parts);
}

const STATUS = {
  active: EndpointStatus.ACTIVE,
  paused: EndpointStatus.PAUSED,
  disabled: EndpointStatus.DISABLED,
  deleted: EndpointStatus.UNSPECIFIED,
} as const;
const DELIVERY_STATUS = {
  pending: DeliveryStatus.PENDING,
  delivered: DeliveryStatus.DELIVERED,
  failed: DeliveryStatus.FAILED,
} as const;

function readStatus(status: DeliveryStatus | undefined): Delivery["status"] | null {
  if (status === undefined) return null;
  const words = Object.keys(DELIVERY_STATUS) as Delivery["status"][];
  const word = words.find((each) => DELIVERY_STATUS[each] === status);
  if (!word) throw refuseField("status", "must be pending, delivered or failed");
  return word;
}

const encodeEndpoint = (endpoint: Endpoint): MessageInitShape<typeof EndpointSchema> => ({
  id: endpoint.id,
  url: endpoint.url,
  events: endpoint.events ?? [],
  status: STATUS[endpoint.status],
  ...(endpoint.statusReason !== null && { statusReason: endpoint.statusReason }),
  ...(endpoint.failingSince && { failingSince: timestampFromDate(endpoint.failingSince) }),
  pendingDeliveries: endpoint.pending,
  createdAt: timestampFromDate(endpoint.createdAt),
  updatedAt: timestampFromDate(endpoint.updatedAt),
});

const encodeDelivery = (delivery: Delivery): MessageInitShape<typeof DeliverySchema> => ({
  id: delivery.id,
  endpointId: delivery.endpoint,
  eventId: delivery.event,
  type: delivery.type,
  ...(delivery.sequence !== null && { sequence: delivery.sequence }),
  status: DELIVERY_STATUS[delivery.status],
  attempts: delivery.attempts,
  ...(delivery.lastStatus !== null && { lastStatus: delivery.lastStatus }),
  ...(delivery.lastError !== null && { lastError: delivery.lastError }),
  ...(delivery.status === "pending" && { nextAttemptAt: timestampFromDate(delivery.nextAt) }),
  ...(delivery.deliveredAt && { deliveredAt: timestampFromDate(delivery.deliveredAt) }),
  createdAt: timestampFromDate(delivery.createdAt),
});

const encodeSettings = ({
  balanceLow,
  percents,
}: Settings): MessageInitShape<typeof WebhookSettingsSchema> => ({
  ...(balanceLow !== null && { balanceLowNgonka: balanceLow }),
  limitThresholdPercents: percents,
});
