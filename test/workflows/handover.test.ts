import { activityInfo } from "@temporalio/activity";
import { NativeConnection, Worker } from "@temporalio/worker";
import { expect, test } from "vitest";
import { pause } from "../../src/base/time.js";
import { beat } from "../../src/temporal/beat.js";
import { workflowBundle } from "../../src/temporal/bundle.js";
import { installRuntime } from "../../src/temporal/run.js";
import { type PeriodActivities, QUEUES } from "../../workflows/contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import { DATA_DIR, quietLog, temporalClient, within } from "./world.js";

const totals = { ended: "2026-03-10", keysRolled: 7, requests: 0, costNgonka: "0" };

test("what a stopping worker leaves unfinished, the next one goes on with where it was", async () => {
  installRuntime(quietLog);
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  const client = await temporalClient(temporal);
  const connection = await NativeConnection.connect({ address: temporal.address });
  const codePath = await workflowBundle(DATA_DIR);
  const worker = (rollCounters: PeriodActivities["rollCounters"]) =>
    Worker.create({
      ...{ connection, namespace: temporal.namespace, taskQueue: QUEUES.jobs },
      ...{ workflowBundle: { codePath }, shutdownGraceTime: 100 },
      activities: {
        openPeriod: async () => ({ kind: "open", ended: totals.ended }),
        rollCounters,
        sumUpUsage: async () => {},
        tellOfResets: async () => {},
        closePeriod: async () => totals,
      },
    });

  let rolled = 0;
  const first = await worker(async () => {
    for (; ; await pause(20)) {
      beat(`key ${rolled + 1}`);
      rolled += 1;
    }
  });
  const handle = await client.workflow.start("limitReset", {
    ...{ workflowId: "reset", taskQueue: QUEUES.jobs },
    args: [{ kind: "day", period: "2026-03-11" }],
  });
  await first.runUntil(within(10_000, async () => expect(rolled).toBeGreaterThan(5)));

  let from = "";
  const second = await worker(async () => {
    from = activityInfo().heartbeatDetails;
  });
  expect(await second.runUntil(handle.result())).toEqual(totals);
  expect(from).toMatch(/^key [0-9]+$/);
  expect(Number(from.slice(4))).toBeGreaterThanOrEqual(rolled);
  await connection.close();
  await client.connection.close();
});
