import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Asked } from "../support/live-gateway.js";
import { inRest, outcomeOfRest } from "./wires.js";
import { buildWorld, type Credential, digestOf, type World } from "./world.js";

let world: World;
let before: Record<string, string>;
beforeAll(async () => {
  world = await buildWorld();
  before = await digestOf(world.sql);
});
afterAll(() => world?.close());
afterEach(async () => expect(await digestOf(world.sql)).toEqual(before));

type Route = string | ((w: World) => string);
/** What is wrong, what goes out, and the field that must be named. */
type Row = [what: string, body: unknown, param: string | undefined];

const ask = (route: Route, as: Credential, asked: Omit<Asked, "bearer"> = {}) =>
  world.gateway.rest(typeof route === "string" ? route : route(world), {
    bearer: world.credentials[as],
    ...asked,
  });

const TOO_LARGE = "9223372036854775808";
const PAST = "2020-01-01T00:00:00Z";
const LONG_NAME = "n".repeat(101);

const badJson: Row[] = [
  ["malformed JSON", '{"name":', undefined],
  ["text that is no JSON", "name=A", undefined],
  ["a list", "[]", "body"],
  ["null", "null", "body"],
  ["a string", '"name"', "body"],
  ["an unknown field", { nmae: "A" }, "nmae"],
];

function amounts(field: string): Row[] {
  return [
    [`${field} as a JSON number`, { [field]: 1_000 }, field],
    [`${field} as a float`, { [field]: "1.5" }, field],
    [`${field} as a float number`, { [field]: 1.5 }, field],
    [`${field} below zero`, { [field]: "-1" }, field],
    [`${field} over int64`, { [field]: TOO_LARGE }, field],
    [`${field} with an exponent`, { [field]: "1e9" }, field],
    [`${field} with blanks`, { [field]: " 1" }, field],
    [`${field} in hexadecimal`, { [field]: "0x10" }, field],
    [`${field} as an object`, { [field]: { value: "1" } }, field],
    [`${field} as an empty text`, { [field]: "" }, field],
  ];
}

const names: Row[] = [
  ["an empty name", { name: "" }, "name"],
  ["a name of blanks", { name: "   " }, "name"],
  ["a name too long", { name: LONG_NAME }, "name"],
  ["a name that is null", { name: null }, "name"],
  ["a name that is a number", { name: 5 }, "name"],
  ["a name that is a list", { name: ["A"] }, "name"],
  ["a name with a control character", { name: "a\nb" }, "name"],
  ["a name that Postgres cannot store", { name: "a\u0000b" }, "name"],
  ["a name with half a character", '{"name":"a\\ud800b"}', "name"],
];

const expiries: Row[] = [
  ["an expiry in the past", { name: "A", expires_at: PAST }, "expires_at"],
  ["an expiry that is a number", { name: "A", expires_at: 1_900_000_000 }, "expires_at"],
  ["an expiry elsewhere", { name: "A", expires_at: "2030-01-01T00:00:00+02:00" }, "expires_at"],
  ["an expiry on no day", { name: "A", expires_at: "2030-02-30T00:00:00Z" }, "expires_at"],
  ["an expiry without a time", { name: "A", expires_at: "2030-01-01" }, "expires_at"],
  ["an expiry after year 9999", { name: "A", expires_at: "+010000-01-01T00:00:00Z" }, "expires_at"],
];

const childFields: Row[] = [
  ...amounts("limit_daily_ngonka"),
  ...amounts("limit_monthly_ngonka"),
  ...amounts("limit_total_ngonka"),
  ...expiries,
  ["no request a minute", { name: "A", rate_limit_rpm: 0 }, "rate_limit_rpm"],
  ["half a request a minute", { rate_limit_rpm: 0.5 }, "rate_limit_rpm"],
  ["fewer than no request a minute", { rate_limit_rpm: -1 }, "rate_limit_rpm"],
  ["requests a minute as text", { rate_limit_rpm: "60" }, "rate_limit_rpm"],
  ["too many requests a minute", { name: "A", rate_limit_rpm: 1_000_001 }, "rate_limit_rpm"],
  ["requests a minute over int32", { rate_limit_rpm: 2_147_483_648 }, "rate_limit_rpm"],
  ["models as a text", { models: "demo/fast" }, "models"],
  ["a model that is a number", { models: ["demo/fast", 1] }, "models[1]"],
  ["an empty model", { name: "A", models: [""] }, "models[0]"],
  ["a model that is too long", { name: "A", models: ["m".repeat(201)] }, "models[0]"],
  ["too many models", { name: "A", models: Array(101).fill("demo/fast") }, "models"],
  ["metadata as a list", { metadata: [] }, "metadata"],
  ["a value that is a number", { metadata: { team: 1 } }, "metadata.team"],
  ["a value that is too long", { name: "A", metadata: { team: "t".repeat(513) } }, "metadata.team"],
  ["a pair's name too long", { name: "A", metadata: { ["t".repeat(65)]: "a" } }, "metadata"],
  [
    "too many pairs",
    {
      name: "A",
      metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, ""])),
    },
    "metadata",
  ],
  ["half a character in metadata", '{"name":"A","metadata":{"a":"\\udc00"}}', "metadata.a"],
  ["half a character in a pair's name", '{"name":"A","metadata":{"\\udc00":"a"}}', "metadata"],
  ["a prototype in metadata", '{"name":"A","metadata":{"__proto__":"x"}}', "metadata.__proto__"],
  ["the answer's own field", { name: "A", id: "x" }, "id"],
  ["a field of the path", { name: "A", management_key_id: "x" }, "management_key_id"],
  ["the mask", { name: "A", update_mask: "name" }, "update_mask"],
];

const graces: Row[] = [
  ["a grace below zero", { grace_seconds: -1 }, "grace_seconds"],
  ["a grace over 30 days", { grace_seconds: 2_592_001 }, "grace_seconds"],
  ["a grace as text", { grace_seconds: "60" }, "grace_seconds"],
  ["half a second of grace", { grace_seconds: 0.5 }, "grace_seconds"],
];

const statuses: Row[] = [
  ["no change", {}, "body"],
  ["no body", undefined, "body"],
  ["an unknown status", { status: "paused" }, "status"],
  ["a status that cannot be set", { status: "deleted" }, "status"],
  ["a status in upper case", { status: "DISABLED" }, "status"],
  ["a status that is null", { status: null }, "status"],
];

const KEYS = "/api/management/keys";
const child = (w: World) => `${KEYS}/${w.gm}/children/${w.children.active.id}`;
const credits = (w: World) => `POST /api/admin/accounts/${w.account}/credits`;
const price = { input_ngonka_per_mtok: "1", output_ngonka_per_mtok: "1" };

const BAD_FIELDS: [name: string, route: Route, as: Credential, rows: Row[]][] = [
  [
    "POST /api/auth/register",
    "POST /api/auth/register",
    "nobody",
    [
      ...badJson,
      ["no e-mail", { password: "long enough for all" }, "email"],
      ["an e-mail that is none", { email: "a", password: "long enough for all" }, "email"],
      ["an e-mail that is a number", { email: 5 }, "email"],
      ["an e-mail too long", { email: `a@${"b".repeat(253)}`, password: "long enough" }, "email"],
      ["no password", { email: "new@example.com" }, "password"],
      ["a short password", { email: "new@example.com", password: "short" }, "password"],
      ["a long password", { email: "new@example.com", password: "p".repeat(201) }, "password"],
      [
        "an unknown referral code",
        { email: "new@example.com", password: "long enough for all", referral_code: "NOBODYS" },
        "referral_code",
      ],
    ],
  ],
  [
    "POST /api/auth/login",
    "POST /api/auth/login",
    "nobody",
    [
      ...badJson,
      ["no e-mail", { password: "long enough for all" }, "email"],
      ["no password", { email: "owner@example.com" }, "password"],
      ["a password that is a number", { email: "owner@example.com", password: 1 }, "password"],
    ],
  ],
  [
    "POST /api/management/keys",
    `POST ${KEYS}`,
    "owner",
    [
      ...badJson,
      ...names,
      ...expiries,
      ["an unknown access", { name: "A", access: "all" }, "access"],
      ["an access that is a number", { name: "A", access: 1 }, "access"],
    ],
  ],
  [
    "PATCH /api/management/keys/:id",
    (w) => `PATCH ${KEYS}/${w.gm}`,
    "gm",
    [
      ...badJson,
      ...names,
      ...statuses,
      ["an expiry in the past", { expires_at: PAST }, "expires_at"],
      ["an access that is null", { access: null }, "access"],
    ],
  ],
  [
    "POST /api/management/keys/:id/rotate",
    (w) => `POST ${KEYS}/${w.gm}/rotate`,
    "gm",
    [...badJson, ...graces],
  ],
  [
    "POST .../children",
    (w) => `POST ${KEYS}/${w.gm}/children`,
    "gm",
    [...badJson, ...names, ...childFields, ["no name", {}, "name"]],
  ],
  [
    "PATCH .../children/:id",
    (w) => `PATCH ${child(w)}`,
    "gm",
    [...badJson, ...names, ...childFields, ...statuses],
  ],
  ["POST .../children/:id/rotate", (w) => `POST ${child(w)}/rotate`, "gm", [...badJson, ...graces]],
  [
    "POST /api/admin/accounts/:id/credits",
    credits,
    "admin",
    [
      ...badJson,
      ...amounts("amount_ngonka"),
      ["no amount", { reference: "r" }, "amount_ngonka"],
      ["an amount of zero", { amount_ngonka: "0", reference: "r" }, "amount_ngonka"],
      ["no reference", { amount_ngonka: "1" }, "reference"],
      ["a reference too long", { amount_ngonka: "1", reference: "r".repeat(201) }, "reference"],
      [
        "more than a balance can be",
        { amount_ngonka: "9223372036854775807", reference: "r" },
        "amount_ngonka",
      ],
    ],
  ],
  [
    "POST /api/admin/accounts/:id/suspend",
    (w) => `POST /api/admin/accounts/${w.account}/suspend`,
    "admin",
    [...badJson, ["a reason too long", { reason: "r".repeat(201) }, "reason"]],
  ],
  [
    "POST /api/admin/accounts/:id/resume",
    (w) => `POST /api/admin/accounts/${w.account}/resume`,
    "admin",
    badJson,
  ],
  [
    "PUT /api/admin/models/:id",
    "PUT /api/admin/models/demo/new",
    "admin",
    [
      ...badJson,
      ...amounts("input_ngonka_per_mtok"),
      ...amounts("output_ngonka_per_mtok"),
      ["no price of output", { input_ngonka_per_mtok: "1" }, "output_ngonka_per_mtok"],
      ["no price of input", { output_ngonka_per_mtok: "1" }, "input_ngonka_per_mtok"],
      ["no tokens of context", { ...price, context_tokens: 0 }, "context_tokens"],
      ["tokens over int32", { ...price, max_output_tokens: 2_147_483_648 }, "max_output_tokens"],
      ["no step of a hold", { ...price, hold_step_tokens: 0 }, "hold_step_tokens"],
      ["tokens of an image as text", { ...price, image_tokens: "many" }, "image_tokens"],
      ["less than no overhead", { ...price, prompt_overhead_tokens: -1 }, "prompt_overhead_tokens"],
      ["half a default", { ...price, default_max_tokens: 0.5 }, "default_max_tokens"],
      ["enabled as text", { ...price, enabled: "yes" }, "enabled"],
    ],
  ],
];

describe.each(BAD_FIELDS)("%s refuses by name", (_name, route, as, rows) => {
  test.each(rows)("%s", async (_what, body, param) => {
    const answer = await ask(route, as, { ...(body !== undefined && { body }) });
    expect(outcomeOfRest(answer)).toEqual(inRest("invalid_request_error", param));
    if (param)
      expect(answer.json).toMatchObject({ error: { message: expect.stringContaining(param) } });
  });

  test("a body over 1 MiB", async () => {
    const body = JSON.stringify({ name: "x".repeat(1024 * 1024) });
    expect(outcomeOfRest(await ask(route, as, { body }))).toEqual(inRest("request_too_large"));
  });
});

describe("a list refuses by name", () => {
  const lists: [string, Route, Credential][] = [
    ["GET /api/account/transfers", "GET /api/account/transfers", "owner"],
    ["GET /api/management/keys", `GET ${KEYS}`, "owner"],
    ["GET .../children", (w) => `GET ${KEYS}/${w.gm}/children`, "gm"],
    ["GET /api/admin/accounts", "GET /api/admin/accounts", "admin"],
  ];
  const queries: [string, string, string][] = [
    ["an unknown parameter", "colour=red", "colour"],
    ["one given twice", "limit=1&limit=2", "limit"],
    ["no rows", "limit=0", "limit"],
    ["too many rows", "limit=101", "limit"],
    ["fewer than no rows", "limit=-1", "limit"],
    ["rows over int32", "limit=99999999999", "limit"],
    ["rows in words", "limit=ten", "limit"],
    ["a cursor that is none", "cursor=AAAA", "cursor"],
    ["a cursor that Postgres cannot store", "cursor=%00", "cursor"],
  ];
  const each = lists.flatMap(([name, route, as]) =>
    queries.map(([what, query, param]) => [name, what, route, as, query, param] as const),
  );
  test.each(each)("%s: %s", async (_name, _what, route, as, query, param) => {
    const path = typeof route === "string" ? route : route(world);
    const answer = await ask(`${path}?${query}`, as);
    expect(outcomeOfRest(answer)).toEqual(inRest("invalid_request_error", param));
  });

  test.each([
    ["an unknown status", "status=gone", "status"],
    ["a search too long", `q=${"q".repeat(101)}`, "q"],
    ["a search that Postgres cannot store", "q=a%00", "q"],
  ])("GET .../children: %s", async (_what, query, param) => {
    const answer = await ask((w) => `GET ${KEYS}/${w.gm}/children?${query}`, "gm");
    expect(outcomeOfRest(answer)).toEqual(inRest("invalid_request_error", param));
  });
});

describe("looks as if it were not there:", () => {
  const at = (key: string, of: string) => `${KEYS}/${key}/children/${of}`;
  const places: [string, (w: World) => string, Credential][] = [
    ["another owner's management key", (w) => `${KEYS}/${w.strangerGm}`, "owner"],
    ["a sibling, to a management key", (w) => `${KEYS}/${w.siblingGm}`, "gm"],
    ["an unknown management key", (w) => `${KEYS}/${w.nowhere}`, "owner"],
    ["an id that is none", () => `${KEYS}/not-an-id`, "owner"],
    ["another owner's child", (w) => at(w.strangerGm, w.strangerChild.id), "owner"],
    ["another owner's child below an own key", (w) => at(w.gm, w.strangerChild.id), "owner"],
    ["a sibling's child", (w) => at(w.siblingGm, w.siblingChild.id), "gm"],
    ["a sibling's child below the own key", (w) => at(w.gm, w.siblingChild.id), "gm"],
    ["an unknown child", (w) => at(w.gm, w.nowhere), "gm"],
    ["a child's id that is none", (w) => at(w.gm, "not-an-id"), "gm"],
  ];
  test.each(places)("%s, to every verb", async (_what, path, as) => {
    const unknown = path(world).includes("children") ? at(world.gm, world.nowhere) : undefined;
    for (const [verb, body] of [
      ["GET", undefined],
      ["PATCH", { name: "Mine now" }],
      ["DELETE", undefined],
      ["POST", {}],
    ] as const) {
      const tail = verb === "POST" ? "/rotate" : "";
      const answer = await ask(`${verb} ${path(world)}${tail}`, as, body && { body });
      const { status, reason } = outcomeOfRest(answer);
      expect({ verb, status, reason }).toEqual({ verb, status: 404, reason: "not_found" });
      if (!unknown || path(world).includes("not-an-id")) continue;
      const other = await ask(`${verb} ${unknown}${tail}`, as, body && { body });
      expect(answer.json).toEqual(other.json);
    }
  });

  test.each([
    ["a new child below another owner's key", (w: World) => w.strangerGm, "owner"],
    ["a new child below a sibling", (w: World) => w.siblingGm, "gm"],
  ] as const)("%s", async (_what, key, as) => {
    const route = `${KEYS}/${key(world)}/children`;
    const body = { name: "Mine" };
    expect(outcomeOfRest(await ask(`POST ${route}`, as, { body })).reason).toBe("not_found");
    expect(outcomeOfRest(await ask(`GET ${route}`, as)).reason).toBe("not_found");
  });

  test.each(["credits", "suspend", "resume"])("an unknown account, to %s", async (verb) => {
    const body = verb === "credits" ? { amount_ngonka: "1", reference: "r" } : {};
    for (const id of [world.nowhere, "not-an-id", world.gm]) {
      const answer = await ask(`POST /api/admin/accounts/${id}/${verb}`, "admin", { body });
      expect(outcomeOfRest(answer)).toMatchObject({ status: 404, reason: "not_found" });
    }
  });

  test("a deleted child, to whoever would change or rotate it", async () => {
    const path = `${KEYS}/${world.gm}/children/${world.children.deleted.id}`;
    const changed = await ask(`PATCH ${path}`, "gm", { body: { status: "active" } });
    expect(outcomeOfRest(changed)).toEqual(inRest("not_found"));
    expect(outcomeOfRest(await ask(`POST ${path}/rotate`, "gm"))).toEqual(inRest("not_found"));
  });
});

test("an e-mail that is taken, also in other letters, opens no second account", async () => {
  for (const email of ["owner@example.com", "OWNER@Example.com"]) {
    const body = { email, password: "another long password" };
    const answer = await ask("POST /api/auth/register", "nobody", { body });
    expect(outcomeOfRest(answer)).toEqual(inRest("email_taken"));
  }
});

test("a wrong e-mail and a wrong password read the same", async () => {
  const texts = [];
  for (const email of ["owner@example.com", "nobody@example.com"]) {
    const body = { email, password: "not the right one" };
    const answer = await ask("POST /api/auth/login", "nobody", { body });
    expect(outcomeOfRest(answer)).toEqual(inRest("invalid_api_key"));
    texts.push(JSON.stringify(answer.json));
  }
  expect(texts[0]).toBe(texts[1]);
});

test("a reference that paid before pays nothing else and nobody else", async () => {
  const reference = "first payment of owner@example.com";
  const more = { amount_ngonka: "5", reference };
  const conflict = await ask(credits, "admin", { body: more });
  expect(outcomeOfRest(conflict)).toMatchObject(inRest("idempotency_conflict"));
  expect(conflict.headers.get("x-should-retry")).toBe("false");
  const same = { amount_ngonka: "1000000000", reference };
  const elsewhere = (w: World) => `POST /api/admin/accounts/${w.strangerAccount}/credits`;
  const other = await ask(elsewhere, "admin", { body: same });
  expect(outcomeOfRest(other)).toMatchObject(inRest("idempotency_conflict"));
});

test.each([
  ["a model with a blank", "demo/a%20b"],
  ["a model that is too long", "m".repeat(201)],
  ["a model that Postgres cannot store", "m%00"],
])("%s is not priced", async (_what, id) => {
  const answer = await ask(`PUT /api/admin/models/${id}`, "admin", { body: price });
  expect(outcomeOfRest(answer)).toEqual(inRest("invalid_request_error", "model"));
});

describe("another method is 405 and says which ones do:", () => {
  const paths: [string, (w: World) => string, string, string][] = [
    ["/api/auth/register", () => "/api/auth/register", "GET", "POST"],
    ["/api/auth/login", () => "/api/auth/login", "DELETE", "POST"],
    ["/api/account", () => "/api/account", "POST", "GET"],
    ["/api/account/transfers", () => "/api/account/transfers", "PUT", "GET"],
    ["/api/management/keys", () => KEYS, "PATCH", "POST, GET"],
    ["/api/management/keys/:id", (w) => `${KEYS}/${w.gm}`, "POST", "GET, PATCH, DELETE"],
    [".../rotate", (w) => `${KEYS}/${w.gm}/rotate`, "GET", "POST"],
    [".../children", (w) => `${KEYS}/${w.gm}/children`, "DELETE", "POST, GET"],
    [".../children/:id", child, "PUT", "GET, PATCH, DELETE"],
    [".../children/:id/rotate", (w) => `${child(w)}/rotate`, "PATCH", "POST"],
    ["/api/admin/accounts", () => "/api/admin/accounts", "POST", "GET"],
    ["/api/admin/accounts/:id/credits", (w) => credits(w).slice(5), "GET", "POST"],
    ["/api/admin/models", () => "/api/admin/models", "POST", "GET"],
    ["/api/admin/models/:id", () => "/api/admin/models/demo/fast", "DELETE", "PUT"],
    ["/api/admin/status", () => "/api/admin/status", "POST", "GET"],
    ["/v1/chat/completions", () => "/v1/chat/completions", "GET", "POST"],
    ["/v1/models", () => "/v1/models", "POST", "GET"],
    ["/v1/models/:id", () => "/v1/models/demo/fast", "DELETE", "GET"],
    ["/v1/key", () => "/v1/key", "PATCH", "GET"],
    ["/healthz", () => "/healthz", "POST", "GET"],
    ["/readyz", () => "/readyz", "DELETE", "GET"],
    ["/metrics", () => "/metrics", "PUT", "GET"],
  ];
  test.each(paths)("%s", async (_name, path, verb, allow) => {
    const answer = await ask(`${verb} ${path(world)}`, "owner");
    expect(outcomeOfRest(answer)).toEqual(inRest("method_not_allowed"));
    expect(answer.headers.get("allow")).toBe(allow);
  });
});

test.each([
  "/",
  "/api",
  "/api/nothing",
  "/api/account/",
  "/api/management/keys/",
  "/api/management/keys//children",
  "/v1",
  "/v1/",
  "/v1/nothing",
  "/v1/models/",
  "/v1/chat",
  "/api/v1/nothing",
  "/healthz/x",
  "/keytoll.v1.KeyService/Nothing",
  "/keytoll.v1.NoService/GetAccount",
  "/%",
  "/..%2fapi/account",
])("%s is 404 to every verb, whoever asks", async (path) => {
  for (const verb of ["GET", "POST", "PUT", "PATCH", "DELETE"]) {
    for (const as of ["owner", "nobody"] as const) {
      expect(outcomeOfRest(await ask(`${verb} ${path}`, as))).toEqual(inRest("not_found"));
    }
  }
});
