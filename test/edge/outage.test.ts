import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readConfig } from "../../src/base/config.js";
import { createLog } from "../../src/base/log.js";
import { AccountService, GetAccountRequestSchema } from "../../src/gen/keytoll/v1/account_pb.js";
import { type Gateway, startGateway } from "../../src/server.js";
import { createDice } from "../chaos/dice.js";
import { type Line, startLine } from "../chaos/proxy.js";
import { freshDatabase, type TestDatabase } from "../support/database.js";
import { environment, restClient } from "../support/live-gateway.js";

let database: TestDatabase;
let line: Line;
let gateway: Gateway;
beforeAll(async () => {
  database = await freshDatabase();
  line = await startLine(database.url, createDice(1));
  const env = environment(line.url, "http://127.0.0.1:9/v1");
  gateway = await startGateway(readConfig(env), env, createLog("silent", "test"));
});
afterAll(async () => {
  await gateway?.close();
  await line?.close();
  await database?.drop();
});

test("while the database is away every door says 503 not_ready, and none an internal error", async () => {
  const { rest, anOwner, aManagementKey, aChild } = restClient(gateway.http);
  const { token } = await anOwner("away@example.com");
  const key = await aManagementKey(token);
  // Authenticated for the first time during the outage: no cache can answer
  const child = await aChild(token, key.id);
  await line.close();

  const body = { model: "demo/fast", messages: [{ role: "user", content: "hi" }] };
  const answers = await Promise.all([
    rest("POST /v1/chat/completions", { bearer: child.secret, body }),
    rest("GET /v1/key", { bearer: child.secret }),
    rest("GET /api/account", { bearer: token }),
    rest("GET /readyz"),
  ]);
  expect(answers.map((it) => it.status)).toEqual([503, 503, 503, 503]);
  expect(answers[0]?.json).toMatchObject({ error: { code: "not_ready" } });

  const accounts = createClient(
    AccountService,
    createGrpcTransport({ baseUrl: `http://${gateway.grpc}` }),
  );
  const headers = { authorization: `Bearer ${token}` };
  const failure = await accounts
    .getAccount(create(GetAccountRequestSchema), { headers })
    .catch(ConnectError.from);
  expect(failure).toMatchObject({ code: Code.Unavailable });
});
