import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { afterAll, beforeAll, expect, test } from "vitest";
import { KEYTOLL } from "../../src/dev/processes.js";
import { type Receiver, startReceiver, verified } from "./receiver.js";
import { aShop, aWorld, until, type World } from "./world.js";

let world: World;
let receiver: Receiver;
let child: ChildProcess;
beforeAll(async () => {
  world = await aWorld();
  receiver = await startReceiver(() => undefined);
  await world.stopWorker();
  const { PATH, HOME } = process.env;
  const env = { PATH, HOME, ...world.env, KEYTOLL_LOG_LEVEL: "silent" };
  const stdio = ["ignore", "ignore", "inherit", "ipc"] as const;
  child = fork(KEYTOLL, ["work"], { execArgv: [], stdio: [...stdio], env });
  await once(child, "message");
});
afterAll(async () => {
  child?.kill("SIGKILL");
  await receiver?.stop();
  await world?.close();
});

test("a delivery whose worker is killed in the middle is made by the next, under the same id", {
  timeout: 120_000,
}, async () => {
  const shop = await aShop(world, receiver.url, { events: ["key.created"] });
  await world.aChild(shop.token, shop.manager);
  await until(() => expect(receiver.received).toHaveLength(1));
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
  receiver.behaves(() => 200);
  await world.startWorker();
  const patient = { timeout: 60_000, interval: 100 };
  await until(() => expect(receiver.received).toHaveLength(2), patient);
  const [one, two] = receiver.received;
  if (!one || !two) throw new Error("nothing came");
  expect(two.headers["webhook-id"]).toBe(one.headers["webhook-id"]);
  expect(verified(shop.endpoint.secret, two)).toEqual(verified(shop.endpoint.secret, one));
  await until(async () => {
    const route = `GET /api/webhooks/endpoints/${shop.endpoint.id}/deliveries`;
    const { data } = await world.done(route, { bearer: shop.token });
    expect(data).toMatchObject([{ status: "delivered", attempts: 1 }]);
  });
  expect(receiver.received).toHaveLength(2);
});
