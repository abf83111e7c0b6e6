import { lookup } from "node:dns/promises";
import { BlockList, isIP } from "node:net";
import { refuseField } from "../base/errors.js";

/** Which targets an operator lets owners name. */
export interface TargetRules {
  /** Only https. */
  production: boolean;
  /** Private ranges that may be reached all the same, as CIDR. */
  allowPrivate: readonly string[];
}

/** Answers all addresses of a host. */
export type Resolve = (host: string) => Promise<string[]>;

export interface Targets {
  /** A URL that an owner names. @throws invalid_request_error by the field `url` */
  check(text: string): Promise<string>;
  /** What is wrong with a URL itself, wherever it leads; undefined: nothing. */
  problemOf(url: URL): string | undefined;
  /** True where this address may be dialled. */
  allows(address: string): boolean;
  /** Addresses of a host, all of which may be dialled. @throws Error in words */
  resolve(host: string): Promise<string[]>;
}

const MAX_URL = 2_048;
const PORTS = new Set(["", "80", "443", "8080", "8443"]);
const PRIVATE = "leads to an address that is not public";

/** What is not the public internet: RFC 6890 and its successors, multicast, and metadata services. */
const CLOSED_V4 = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/3",
];
/** Of IPv6 only this is public; mapped, translated (NAT64) and local addresses lie outside. */
const OPEN_V6 = ["2000::/3"];
/** Within it: Teredo and other special uses, documentation, 6to4, which can carry an IPv4. */
const CLOSED_V6 = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

const resolveBySystem: Resolve = async (host) =>
  (await lookup(host, { all: true })).map(({ address }) => address);

/** Decides where webhooks may go: nowhere in the operator's own network, unless that is allowed. */
export function createTargets(
  { production, allowPrivate }: TargetRules,
  lookUp: Resolve = resolveBySystem,
): Targets {
  const [closed, openV6, exempt] = [
    listOf([...CLOSED_V4, ...CLOSED_V6]),
    listOf(OPEN_V6),
    listOf(allowPrivate),
  ];

  function allows(address: string): boolean {
    const family = isIP(address);
    if (family === 0) return false;
    const type = family === 4 ? "ipv4" : "ipv6";
    if (exempt.check(address, type)) return true;
    if (type === "ipv6" && !openV6.check(address, type)) return false;
    return !closed.check(address, type);
  }

  async function resolve(host: string): Promise<string[]> {
    const addresses = isIP(host) ? [host] : await lookUp(host);
    if (addresses.length === 0) throw new Error("its host has no address");
    if (!addresses.every(allows)) throw new Error(`it ${PRIVATE}`);
    return addresses;
  }

  function problemOf(url: URL): string | undefined {
    const schemes = production ? ["https:"] : ["https:", "http:"];
    if (!schemes.includes(url.protocol)) {
      return production ? "must start with https://" : "must start with https:// or http://";
    }
    if (url.username !== "" || url.password !== "") return "must not have a user or password";
    if (url.hash !== "") return "must not have a fragment";
    return undefined;
  }

  async function check(text: string): Promise<string> {
    if (text === "") throw refuseField("url", "is required");
    if (text.length > MAX_URL) throw refuseField("url", `has more than ${MAX_URL} characters`);
    if (!URL.canParse(text)) throw refuseField("url", "is not a URL");
    const url = new URL(text);
    const problem = problemOf(url);
    if (problem) throw refuseField("url", problem);

    const addresses = await addressesOf(url);
    if (!addresses.every(allows)) throw refuseField("url", PRIVATE);
    // In a private range that is allowed the operator knows what listens where
    const inside = addresses.every((it) => exempt.check(it, isIP(it) === 4 ? "ipv4" : "ipv6"));
    if (!inside && !PORTS.has(url.port)) {
      throw refuseField("url", "must use the port 80, 443, 8080 or 8443");
    }
    return url.href;
  }

  async function addressesOf(url: URL): Promise<string[]> {
    const host = hostOf(url);
    if (isIP(host)) return [host];
    const found = await lookUp(host).catch(() => []);
    if (found.length === 0) throw refuseField("url", "its host cannot be resolved");
    return found;
  }

  return { check, problemOf, allows, resolve };
}

/** Host of a URL, an IPv6 address without its brackets. */
export const hostOf = (url: URL): string => url.hostname.replace(/^\[(.*)\]$/, "$1");

/** All that may be shown of a URL where others can look: its path can hold a token. */
export const originOf = (url: string): string => `${new URL(url).origin}/…`;

function listOf(ranges: readonly string[]): BlockList {
  const list = new BlockList();
  for (const range of ranges) {
    const [address = "", bits = ""] = range.split("/");
    list.addSubnet(address, Number(bits), isIP(address) === 4 ? "ipv4" : "ipv6");
  }
  return list;
}
