import { refuse } from "../../base/errors.js";
import { pause, SECOND } from "../../base/time.js";
import { Health, HealthCheckResponse_ServingStatus } from "../../gen/grpc/health/v1/health_pb.js";
import { type Handlers, type ServiceTable, service } from "./handlers.js";

const { SERVING, NOT_SERVING, SERVICE_UNKNOWN } = HealthCheckResponse_ServingStatus;
const WATCH_INTERVAL = 1 * SECOND;

/**
 * The table with grpc.health.v1. All services stand and fall together: none can work without the
 * database.
 *
 * @param isReady what /readyz answers; must be cheap, probes ask it often
 */
export function withHealth(services: ServiceTable, isReady: () => Promise<boolean>): ServiceTable {
  const names = ["", ...services.map(({ desc }) => desc.typeName)];
  const current = async () => ((await isReady()) ? SERVING : NOT_SERVING);

  const handlers: Handlers<typeof Health> = {
    async check({ service: name }) {
      if (!names.includes(name)) throw refuse("not_found", { message: "no such service" });
      return { status: await current() };
    },
    async *watch({ service: name }, { signal }) {
      let told: HealthCheckResponse_ServingStatus | undefined;
      while (!signal.aborted) {
        const status = names.includes(name) ? await current() : SERVICE_UNKNOWN;
        if (status !== told) yield { status };
        told = status;
        await pause(WATCH_INTERVAL, signal);
      }
    },
    async list() {
      const status = await current();
      return { statuses: Object.fromEntries(names.map((name) => [name, { status }])) };
    },
  };
  return [...services, service(Health, handlers)];
}
