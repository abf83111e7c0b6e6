import { create } from "@bufbuild/protobuf";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { refuse } from "../../src/base/errors.js";
import { service } from "../../src/edge/wire/handlers.js";
import { listen } from "../../src/edge/wire/listen.js";
import { restHandler, restRoute } from "../../src/edge/wire/rest.js";
import {
  Access,
  ChildKeySchema,
  type CreateChildKeyRequest,
  KeyService,
  KeyStatus,
  type ListChildKeysRequest,
  type UpdateChildKeyRequest,
} from "../../src/gen/keytoll/v1/key_pb.js";
import { log } from "./wire-table.js";

const seen: {
  created?: CreateChildKeyRequest;
  listed?: ListChildKeysRequest;
  updated?: UpdateChildKeyRequest;
} = {};
const child = create(ChildKeySchema, {
  id: "c1",
  status: KeyStatus.ACTIVE,
  limitDailyNgonka: 9_223_372_036_854_775_807n,
  createdAt: timestampFromDate(new Date("2026-11-23T12:00:00Z")),
  metadata: { team: "a" },
});
const none = async () => {
  throw new Error("secret detail");
};
const services = [
  service(KeyService, {
    createManagementKey: async ({ name, access }) => ({
      managementKey: { id: "m1", name, access, status: KeyStatus.ACTIVE },
      key: "gm-secret",
    }),
    getManagementKey: none,
    listManagementKeys: none,
    updateManagementKey: none,
    deleteManagementKey: async () => {
      throw refuse("busy", { retryAfter: 2, shouldRetry: true, facts: { daily_remaining: "0" } });
    },
    rotateManagementKey: none,
    createChildKey: async (request) => {
      seen.created = request;
      return { childKey: child, key: "gc-secret" };
    },
    getChildKey: async () => ({ childKey: child }),
    listChildKeys: async (request) => {
      seen.listed = request;
      return { data: [child] };
    },
    updateChildKey: async (request) => {
      seen.updated = request;
      return { childKey: child };
    },
    deleteChildKey: none,
    rotateChildKey: none,
  }),
];

const KEYS = "/api/management/keys";
const CHILD = `${KEYS}/:management_key_id/children/:child_key_id` as const;
const { method } = KeyService;
const routes = [
  restRoute(services, { on: `POST ${KEYS}`, method: method.createManagementKey, status: 201 }),
  restRoute(services, {
    on: `DELETE ${KEYS}/:management_key_id`,
    method: method.deleteManagementKey,
  }),
  restRoute(services, {
    on: `POST ${KEYS}/:management_key_id/children`,
    method: method.createChildKey,
    status: 201,
  }),
  restRoute(services, {
    on: `GET ${KEYS}/:management_key_id/children`,
    method: method.listChildKeys,
    query: ["cursor", "limit", "status", "q"],
  }),
  restRoute(services, { on: `GET ${CHILD}`, method: method.getChildKey }),
  restRoute(services, { on: `PATCH ${CHILD}`, method: method.updateChildKey }),
  restRoute(services, { on: `DELETE ${CHILD}`, method: method.deleteChildKey }),
];

let door: Awaited<ReturnType<typeof listen>>;
beforeAll(async () => {
  const handler = restHandler(routes, log);
  door = await listen({ port: 0, host: "127.0.0.1", variable: "PORT", handler });
});
afterAll(() => door.close(1_000));
beforeEach(() => {
  for (const name of Object.keys(seen)) Reflect.deleteProperty(seen, name);
});

async function call(verb: string, path: string, body?: string) {
  const answer = await fetch(`http://127.0.0.1:${door.port}${KEYS}${path}`, {
    method: verb,
    ...(body !== undefined && { body }),
  });
  return { status: answer.status, headers: answer.headers, json: await answer.json() };
}

test("a created key is flat: the resource's fields beside its secret", async () => {
  const { status, headers, json } = await call("POST", "", '{"name":"A","access":"read_only"}');
  expect(status).toBe(201);
  expect(headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
  expect(json).toEqual({
    id: "m1",
    name: "A",
    key: "gm-secret",
    hint: "",
    status: "active",
    access: "read_only",
    expires_at: null,
    created_at: null,
    cost_fields: null,
  });
});

test("amounts are exact strings, times UTC, what is not set null", async () => {
  const { json } = await call("GET", "/m1/children/c1");
  expect(json).toMatchObject({
    limit_daily_ngonka: "9223372036854775807",
    limit_monthly_ngonka: null,
    used_daily_ngonka: "0",
    daily_remaining: null,
    created_at: "2026-11-23T12:00:00.000Z",
    expires_at: null,
    models: [],
    metadata: { team: "a" },
  });
});

test("a body arrives as the message that RPC would have brought", async () => {
  const body = {
    name: "Client A",
    limit_daily_ngonka: "1000000000",
    limit_total_ngonka: null,
    rate_limit_rpm: 30,
    expires_at: "2026-12-01T00:00:00Z",
    models: ["demo/fast"],
    metadata: { team: "a" },
  };
  await call("POST", "/m%2F1/children", JSON.stringify(body));
  expect(seen.created).toMatchObject({
    managementKeyId: "m/1",
    name: "Client A",
    limitDailyNgonka: 1_000_000_000n,
    rateLimitRpm: 30,
    models: ["demo/fast"],
    metadata: { team: "a" },
  });
  expect(seen.created?.limitTotalNgonka).toBeUndefined();
  const expiresAt = seen.created?.expiresAt;
  expect(expiresAt && timestampDate(expiresAt).toISOString()).toBe("2026-12-01T00:00:00.000Z");
});

test("a PATCH changes the keys that it has and no other; null removes", async () => {
  const body = '{"limit_daily_ngonka":null,"status":"disabled","name":"B"}';
  await call("PATCH", "/m1/children/c1", body);
  expect(seen.updated?.updateMask?.paths).toEqual(["limit_daily_ngonka", "status", "name"]);
  expect(seen.updated).toMatchObject({ name: "B", status: KeyStatus.DISABLED, childKeyId: "c1" });
  expect(seen.updated?.limitDailyNgonka).toBeUndefined();
});

test("query parameters fill the fields that they name", async () => {
  const { json } = await call("GET", "/m1/children?limit=10&status=active&q=a%20b%3F&cursor=x");
  expect(seen.listed).toMatchObject({
    managementKeyId: "m1",
    limit: 10,
    status: KeyStatus.ACTIVE,
    q: "a b?",
    cursor: "x",
  });
  expect(json).toMatchObject({ data: [{ id: "c1" }], next_cursor: null });
});

describe("is refused by name, and no handler hears of it:", () => {
  const amount = "limit_daily_ngonka";
  test.each([
    ["an unknown field", '{"colour":1}', "colour"],
    ["a field of the path", '{"management_key_id":"m2"}', "management_key_id"],
    ["an amount as a JSON number", `{"${amount}":1000}`, amount],
    ["a float amount", `{"${amount}":"1.5"}`, amount],
    ["a negative amount", `{"${amount}":"-1"}`, amount],
    ["an amount over int64", `{"${amount}":"9223372036854775808"}`, amount],
    ["a name that is a number", '{"name":5}', "name"],
    ["a name that is null", '{"name":null}', "name"],
    ["a name that Postgres cannot store", '{"name":"a\\u0000"}', "name"],
    ["half a request a minute", '{"rate_limit_rpm":0.5}', "rate_limit_rpm"],
    ["a day that does not exist", '{"expires_at":"2026-02-30T00:00:00Z"}', "expires_at"],
    ["a time elsewhere", '{"expires_at":"2026-02-03T00:00:00+02:00"}', "expires_at"],
    ["a list that is none", '{"models":"all"}', "models"],
    ["a wrong item", '{"models":["a",1]}', "models[1]"],
    ["a wrong pair", '{"metadata":{"a":1}}', "metadata.a"],
    ["a prototype", '{"__proto__":{"name":"A"}}', "__proto__"],
    ["a prototype in a map", '{"metadata":{"__proto__":"A"}}', "metadata.__proto__"],
    ["a list for a body", "[]", "body"],
  ])("%s", async (_what, body, param) => {
    const { status, json } = await call("POST", "/m1/children", body);
    expect(status).toBe(400);
    expect(json).toMatchObject({
      error: { type: "invalid_request_error", code: "invalid_request_error", param },
    });
    expect((json as { error: { message: string } }).error.message).toMatch(param);
    expect(seen.created).toBeUndefined();
  });

  test.each([
    ["an unknown query parameter", "colour=1", "colour"],
    ["one given twice", "limit=1&limit=2", "limit"],
    ["a limit that is no number", "limit=1e1", "limit"],
    ["a status that is none", "status=gone", "status"],
    ["a field of the path in the query", "management_key_id=m2", "management_key_id"],
  ])("%s", async (_what, query, param) => {
    const { status, json } = await call("GET", `/m1/children?${query}`);
    expect(status).toBe(400);
    expect(json).toMatchObject({ error: { param } });
    expect(seen.listed).toBeUndefined();
  });
});

test("an enum's refusal lists the words that it takes", async () => {
  const { json } = await call("POST", "", '{"name":"A","access":"READ_ONLY"}');
  expect(json).toMatchObject({
    error: { message: 'access: must be one of "read_write", "read_only"' },
  });
  expect(Access.READ_ONLY).toBe(2);
});

test("malformed JSON is 400, a body over 1 MiB 413, an unknown path 404", async () => {
  expect(await call("POST", "", "{")).toMatchObject({ status: 400 });
  expect(await call("POST", "", `"${"x".repeat(1024 * 1024)}"`)).toMatchObject({
    status: 413,
    json: { error: { code: "request_too_large" } },
  });
  expect(await call("GET", "/m1/nothing/here/at/all")).toMatchObject({ status: 404 });
  expect(await call("GET", "//children/c1")).toMatchObject({ status: 404 });
});

test("a path asked with another method is 405 and says which ones it takes", async () => {
  const { status, headers, json } = await call("PUT", "/m1/children/c1");
  expect(status).toBe(405);
  expect(headers.get("allow")).toBe("GET, PATCH, DELETE");
  expect(json).toMatchObject({ error: { code: "method_not_allowed" } });
});

test("a refusal carries its facts and tells SDKs whether and when to retry", async () => {
  const { status, headers, json } = await call("DELETE", "/m1");
  expect(status).toBe(503);
  expect(headers.get("retry-after")).toBe("2");
  expect(headers.get("x-should-retry")).toBe("true");
  expect(json).toEqual({
    error: {
      message: "too much at once, try again shortly",
      type: "busy",
      code: "busy",
      daily_remaining: "0",
    },
  });
});

test("what a handler did not mean to say reaches no caller", async () => {
  const { status, json } = await call("DELETE", "/m1/children/c1");
  expect(status).toBe(500);
  expect(JSON.stringify(json)).not.toContain("secret");
});
