import type { DescMethod } from "@bufbuild/protobuf";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { AccountService } from "../../src/gen/keytoll/v1/account_pb.js";
import { AdminService } from "../../src/gen/keytoll/v1/admin_pb.js";
import { HoldService } from "../../src/gen/keytoll/v1/hold_pb.js";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";
import { KeyService } from "../../src/gen/keytoll/v1/key_pb.js";
import { inRest, inRpc, outcomeOfRest, overConnect, overGrpc } from "./wires.js";
import { buildWorld, type Credential, digestOf, type World } from "./world.js";

let world: World;
let before: Record<string, string>;
beforeAll(async () => {
  world = await buildWorld();
  before = await digestOf(world.sql);
});
afterAll(() => world?.close());
afterEach(async () => expect(await digestOf(world.sql)).toEqual(before));

const UNKNOWN: Credential[] = [
  "nobody",
  "garbage",
  "mistypedGm",
  "mistypedGc",
  "shortGc",
  "otherCaseGm",
  "forgedToken",
  "rotatedGm",
  "deletedGm",
  "disabledGc",
  "expiredGc",
  "deletedGc",
  "orphanGc",
];
const KNOWN: Credential[] = ["owner", "gm", "gc", "admin"];
const OWNER: Credential[] = ["owner"];
const MANAGERS: Credential[] = ["owner", "gm"];
const MANAGEMENT: Credential[] = ["gm"];
const CHILD: Credential[] = ["gc"];
const ADMIN_ONLY: Credential[] = ["admin"];

/** Each credential that a door must refuse, with the reason. */
function refused(allowed: Credential[], writes: boolean): Record<string, string> {
  const others = KNOWN.filter((each) => !allowed.includes(each));
  return {
    ...Object.fromEntries(UNKNOWN.map((each) => [each, "invalid_api_key"])),
    ...Object.fromEntries(others.map((each) => [each, "wrong_key_kind"])),
    ...(writes && allowed.includes("gm") && { readOnly: "read_only_key" }),
  };
}

/** Tries each credential. @returns what came of it, by its name */
async function tryAll<T>(
  names: string[],
  attempt: (bearer: string | undefined) => Promise<T>,
): Promise<Record<string, T>> {
  const outcomes: Record<string, T> = {};
  for (const name of names) outcomes[name] = await attempt(world.credentials[name as Credential]);
  return outcomes;
}

type RpcCase = [name: string, method: DescMethod, allowed: Credential[]];

const rpcCases = (methods: DescMethod[], allowed: Credential[]): RpcCase[] =>
  methods.map((method) => [`${method.parent.name}.${method.name}`, method, allowed]);

const { createManagementKey } = KeyService.method;
const RPC = [
  ...rpcCases(AccountService.methods, OWNER),
  ...rpcCases([createManagementKey], OWNER),
  ...rpcCases(
    KeyService.methods.filter((each) => each.name !== createManagementKey.name),
    MANAGERS,
  ),
  ...rpcCases(HoldService.methods, MANAGERS),
  ...rpcCases(InferenceService.methods, CHILD),
  ...rpcCases(AdminService.methods, ADMIN_ONLY),
];

describe.each([
  ["Connect in JSON", overConnect, RPC.filter(([, { methodKind }]) => methodKind === "unary")],
  ["gRPC on its own port", overGrpc("grpc"), RPC],
])("%s: the wrong credential is refused by", (_wire, call, cases) => {
  test.each(cases)("%s", async (_name, method, allowed) => {
    const writes = !/^(Get|List)/.test(method.name);
    const expected = refused(allowed, writes);
    const outcomes = await tryAll(Object.keys(expected), (bearer) =>
      call(world, method, {}, bearer),
    );
    for (const [name, reason] of Object.entries(expected)) {
      expect.soft(outcomes[name], name).toEqual(inRpc(reason));
    }
  });
});

const KEYS = "/api/management/keys";
const hashOf = (w: World) => w.children.active.id.replaceAll("-", "");
const ROUTES: [name: string, route: (w: World) => string, allowed: Credential[]][] = [
  ["GET /api/account", () => "GET /api/account", OWNER],
  ["GET /api/account/transfers", () => "GET /api/account/transfers", OWNER],
  ["POST /api/management/keys", () => `POST ${KEYS}`, OWNER],
  ["GET /api/management/keys", () => `GET ${KEYS}`, MANAGERS],
  ["GET /api/management/keys/:id", (w) => `GET ${KEYS}/${w.gm}`, MANAGERS],
  ["PATCH /api/management/keys/:id", (w) => `PATCH ${KEYS}/${w.gm}`, MANAGERS],
  ["DELETE /api/management/keys/:id", (w) => `DELETE ${KEYS}/${w.gm}`, MANAGERS],
  ["POST /api/management/keys/:id/rotate", (w) => `POST ${KEYS}/${w.gm}/rotate`, MANAGERS],
  ["POST /api/management/keys/:id/children", (w) => `POST ${KEYS}/${w.gm}/children`, MANAGERS],
  ["GET /api/management/keys/:id/children", (w) => `GET ${KEYS}/${w.gm}/children`, MANAGERS],
  [
    "GET /api/management/keys/:id/children/:child",
    (w) => `GET ${KEYS}/${w.gm}/children/${w.children.active.id}`,
    MANAGERS,
  ],
  [
    "PATCH /api/management/keys/:id/children/:child",
    (w) => `PATCH ${KEYS}/${w.gm}/children/${w.children.active.id}`,
    MANAGERS,
  ],
  [
    "DELETE /api/management/keys/:id/children/:child",
    (w) => `DELETE ${KEYS}/${w.gm}/children/${w.children.active.id}`,
    MANAGERS,
  ],
  [
    "POST /api/management/keys/:id/children/:child/rotate",
    (w) => `POST ${KEYS}/${w.gm}/children/${w.children.active.id}/rotate`,
    MANAGERS,
  ],
  ["GET /api/admin/accounts", () => "GET /api/admin/accounts", ADMIN_ONLY],
  [
    "POST /api/admin/accounts/:id/credits",
    (w) => `POST /api/admin/accounts/${w.account}/credits`,
    ADMIN_ONLY,
  ],
  [
    "POST /api/admin/accounts/:id/suspend",
    (w) => `POST /api/admin/accounts/${w.account}/suspend`,
    ADMIN_ONLY,
  ],
  [
    "POST /api/admin/accounts/:id/resume",
    (w) => `POST /api/admin/accounts/${w.account}/resume`,
    ADMIN_ONLY,
  ],
  ["GET /api/admin/models", () => "GET /api/admin/models", ADMIN_ONLY],
  ["PUT /api/admin/models/demo/fast", () => "PUT /api/admin/models/demo/fast", ADMIN_ONLY],
  ["GET /api/admin/status", () => "GET /api/admin/status", ADMIN_ONLY],
  ["POST /v1/chat/completions", () => "POST /v1/chat/completions", CHILD],
  ["GET /v1/models", () => "GET /v1/models", CHILD],
  ["GET /v1/models/demo/fast", () => "GET /v1/models/demo/fast", CHILD],
  ["GET /v1/key", () => "GET /v1/key", CHILD],
  ["POST /api/v1/chat/completions", () => "POST /api/v1/chat/completions", CHILD],
  ["GET /api/v1/models", () => "GET /api/v1/models", CHILD],
  ["GET /api/v1/key", () => "GET /api/v1/key", [...MANAGEMENT, ...CHILD]],
  ["GET /api/v1/credits", () => "GET /api/v1/credits", MANAGEMENT],
  ["GET /api/v1/keys", () => "GET /api/v1/keys", MANAGEMENT],
  ["POST /api/v1/keys", () => "POST /api/v1/keys", MANAGEMENT],
  ["GET /api/v1/keys/:hash", (w) => `GET /api/v1/keys/${hashOf(w)}`, MANAGEMENT],
  ["PATCH /api/v1/keys/:hash", (w) => `PATCH /api/v1/keys/${hashOf(w)}`, MANAGEMENT],
  ["DELETE /api/v1/keys/:hash", (w) => `DELETE /api/v1/keys/${hashOf(w)}`, MANAGEMENT],
];

/** A body that the route would take, so that only the credential is at fault. */
function bodyFor(route: string): object | undefined {
  if (/^(GET|DELETE)/.test(route)) return undefined;
  if (route.startsWith("PATCH")) return { name: "Changed" };
  if (route.endsWith("/credits")) return { amount_ngonka: "1", reference: "theft" };
  if (route.startsWith("PUT")) return { input_ngonka_per_mtok: "1", output_ngonka_per_mtok: "1" };
  if (route.endsWith("completions")) {
    return { model: "demo/fast", messages: [{ role: "user", content: "hi" }] };
  }
  return /rotate|suspend|resume/.test(route) ? {} : { name: "New" };
}

describe("plain HTTP: the wrong credential is refused by", () => {
  test.each(ROUTES)("%s", async (_name, routeOf, allowed) => {
    const route = routeOf(world);
    const body = bodyFor(route);
    const expected = refused(allowed, !route.startsWith("GET"));
    const answers = await tryAll(Object.keys(expected), (bearer) =>
      world.gateway.rest(route, { bearer, ...(body && { body }) }),
    );
    for (const [name, reason] of Object.entries(expected)) {
      const answer = answers[name];
      expect.soft(answer && outcomeOfRest(answer), name).toEqual(inRest(reason));
      expect.soft(answer?.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    }
  });
});

describe("plain HTTP", () => {
  test.each([
    ["another scheme", (w: World) => `Basic ${w.credentials.owner}`],
    ["no scheme", (w: World) => w.credentials.owner],
    ["an empty bearer", () => "Bearer "],
    ["two words", (w: World) => `Bearer ${w.credentials.owner} ${w.credentials.owner}`],
    ["a very long bearer", () => `Bearer gm-${"a".repeat(8_000)}`],
  ])("an authorization of %s is invalid_api_key", async (_what, authorization) => {
    const headers = { authorization: authorization(world) };
    for (const route of ["GET /api/account", `GET ${KEYS}`, "GET /v1/models"]) {
      const answer = await world.gateway.rest(route, { headers });
      expect(outcomeOfRest(answer)).toEqual(inRest("invalid_api_key"));
    }
  });

  test("all ways in which a key can be wrong read the same, word for word", async () => {
    const texts = new Set<unknown>();
    for (const credential of UNKNOWN) {
      const bearer = world.credentials[credential];
      const { json } = await world.gateway.rest("GET /v1/models", { bearer });
      texts.add(JSON.stringify(json));
    }
    expect([...texts]).toHaveLength(1);
  });
});
