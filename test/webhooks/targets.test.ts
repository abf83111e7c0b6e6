import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readConfig } from "../../src/base/config.js";
import { createSender } from "../../src/webhooks/send.js";
import { newSigningSecret } from "../../src/webhooks/signing.js";
import { createTargets } from "../../src/webhooks/targets.js";
import { refusalOf } from "../support/doors.js";

const NAMES: Record<string, string[]> = {
  "good.example": ["93.184.216.34", "2606:2800:220:1::1"],
  "private.example": ["10.0.0.5"],
  "half.example": ["93.184.216.34", "192.168.1.1"],
  "six.example": ["fd00::1"],
  "mapped.example": ["::ffff:10.0.0.1"],
};
const lookUp = async (host: string) => {
  const found = NAMES[host];
  if (!found) throw new Error("ENOTFOUND");
  return found;
};
const strict = createTargets({ production: true, allowPrivate: [] }, lookUp);
const development = createTargets({ production: false, allowPrivate: [] }, lookUp);

/** What is wrong with a URL; undefined where it may be used. */
const problem = async (url: string, targets = strict) =>
  await targets.check(url).then(
    () => undefined,
    (error: Error) => error.message,
  );

const PRIVATE = "url: leads to an address that is not public";

describe("what is not public is refused when an endpoint is made:", () => {
  test.each([
    ["loopback", "https://127.0.0.1/"],
    ["loopback by another number", "https://2130706433/"],
    ["loopback in hexadecimal", "https://0x7f.1/"],
    ["loopback in octal", "https://0177.0.0.1/"],
    ["any address", "https://0.0.0.0/"],
    ["private 10", "https://10.1.2.3/"],
    ["private 172", "https://172.31.255.255/"],
    ["private 192", "https://192.168.0.1/"],
    ["carrier-grade NAT", "https://100.64.0.1/"],
    ["link-local, metadata of clouds", "https://169.254.169.254/latest/meta-data"],
    ["protocol assignments", "https://192.0.0.192/"],
    ["benchmarking", "https://198.18.0.1/"],
    ["documentation", "https://203.0.113.9/"],
    ["multicast", "https://224.0.0.1/"],
    ["reserved", "https://240.0.0.1/"],
    ["broadcast", "https://255.255.255.255/"],
    ["IPv6 loopback", "https://[::1]/"],
    ["IPv6 any", "https://[::]/"],
    ["IPv4-mapped", "https://[::ffff:127.0.0.1]/"],
    ["IPv4-mapped, as hexadecimal", "https://[::ffff:a00:1]/"],
    ["IPv4-compatible", "https://[::10.0.0.1]/"],
    ["NAT64", "https://[64:ff9b::10.0.0.1]/"],
    ["NAT64, local", "https://[64:ff9b:1::1]/"],
    ["6to4", "https://[2002:a00:1::]/"],
    ["Teredo", "https://[2001::1]/"],
    ["unique local", "https://[fd12:3456::1]/"],
    ["IPv6 link-local", "https://[fe80::1]/"],
    ["IPv6 multicast", "https://[ff02::1]/"],
    ["IPv6 documentation", "https://[2001:db8::1]/"],
    ["AWS metadata over IPv6", "https://[fd00:ec2::254]/"],
    ["a name that means a private address", "https://private.example/"],
    ["a name of which one address is private", "https://half.example/"],
    ["a name with a unique local address", "https://six.example/"],
    ["a name with a mapped address", "https://mapped.example/"],
  ])("%s", async (_, url) => {
    expect(await problem(url)).toBe(PRIVATE);
  });
});

test.each([
  ["http://good.example/", "url: must start with https://"],
  ["ftp://good.example/", "url: must start with https://"],
  ["file:///etc/passwd", "url: must start with https://"],
  ["https://user:pass@good.example/", "url: must not have a user or password"],
  ["https://good.example/#x", "url: must not have a fragment"],
  ["https://good.example:22/", "url: must use the port 80, 443, 8080 or 8443"],
  ["https://good.example:5432/", "url: must use the port 80, 443, 8080 or 8443"],
  ["https://nowhere.example/", "url: its host cannot be resolved"],
  ["good.example", "url: is not a URL"],
  ["", "url: is required"],
  [`https://good.example/${"x".repeat(2_048)}`, "url: has more than 2048 characters"],
  ["https://good.example/hook?x=1", undefined],
  ["https://good.example:8443/", undefined],
  ["https://93.184.216.34/", undefined],
  ["https://[2606:2800:220:1::1]/", undefined],
])("%s in production: %s", async (url, expected) => {
  expect(await problem(url)).toBe(expected);
});

test("in development http may be used, a private address may not", async () => {
  expect(await problem("http://good.example/", development)).toBeUndefined();
  expect(await problem("http://127.0.0.1:8080/", development)).toBe(PRIVATE);
  expect(
    await problem("http://localhost/", createTargets({ production: false, allowPrivate: [] })),
  ).toBe(PRIVATE);
});

test("a private range is reached where the operator allows it, at any port, and no other", async () => {
  const rules = { production: false, allowPrivate: ["10.0.0.0/24", "fd00::/16"] };
  const targets = createTargets(rules, lookUp);
  expect(await problem("http://private.example:9999/", targets)).toBeUndefined();
  expect(await problem("http://six.example/", targets)).toBeUndefined();
  expect(await problem("http://10.0.1.1/", targets)).toBe(PRIVATE);
  expect(await problem("http://good.example:9999/", targets)).toMatch(/must use the port/);
});

test.each(["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129", "10.0.0.0/8/1", "10.0.0.0/"])(
  "%s is no range that an operator can allow",
  (range) => {
    expect(() => readConfig({ KEYTOLL_WEBHOOK_ALLOW_PRIVATE: range })).toThrow(
      `KEYTOLL_WEBHOOK_ALLOW_PRIVATE: "${range}" is not a range like 10.0.0.0/8 or fd00::/8`,
    );
  },
);

describe("when it is dialled", () => {
  let port = 0;
  let dialled = 0;
  const server = createServer((socket) => {
    dialled += 1;
    socket.on("error", () => {});
    socket.end("HTTP/1.1 204 No Content\r\n\r\n");
  });
  beforeAll(async () => {
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    port = (server.address() as AddressInfo).port;
  });
  afterAll(() => server.close());

  const message = (url: string) => ({ url, id: "x", body: "{}", secrets: [newSigningSecret()] });

  test("a name that has come to mean another address leads nowhere", async () => {
    let looks = 0;
    const rebinding = createTargets({ production: false, allowPrivate: [] }, async () => {
      looks += 1;
      return looks === 1 ? ["93.184.216.34"] : ["127.0.0.1"];
    });
    const sender = createSender(rebinding, 2_000);
    const url = "http://rebind.example:8080/";
    expect(await rebinding.check(url)).toBe(url);
    const answer = await sender.send(message(`http://rebind.example:${port}/`));
    expect(answer).toEqual({ status: null, problem: "it leads to an address that is not public" });
    expect([looks, dialled]).toEqual([2, 0]);
    await sender.close();
  });

  test("an address in the URL is checked too, whatever was checked before", async () => {
    const sender = createSender(development, 2_000);
    for (const host of ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "2130706433"]) {
      const answer = await sender.send(message(`http://${host}:${port}/`));
      expect(answer, host).toEqual({
        ...{ status: null, problem: "it leads to an address that is not public" },
      });
    }
    expect(dialled).toBe(0);
    await sender.close();
  });

  test("the address that was looked at is the one that is dialled", async () => {
    let looks = 0;
    const local = createTargets({ production: false, allowPrivate: ["127.0.0.0/8"] }, async () => {
      looks += 1;
      return ["127.0.0.1"];
    });
    const sender = createSender(local, 2_000);
    expect(await sender.send(message(`http://any.example:${port}/`))).toEqual({ status: 204 });
    expect([looks, dialled]).toEqual([1, 1]);
    await sender.close();
  });

  test("in production nothing is sent in the clear, even to an endpoint of before", async () => {
    const sender = createSender(strict, 2_000);
    expect(await sender.send(message("http://good.example/"))).toEqual({
      ...{ status: null, problem: "its URL must start with https://" },
    });
    await sender.close();
  });
});

test("a refusal names the field", async () => {
  const refusal = await refusalOf(strict.check("https://10.0.0.1/"));
  expect(refusal).toMatchObject({ reason: "invalid_request_error", param: "url" });
});
