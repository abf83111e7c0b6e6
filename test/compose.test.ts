import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { readConfig } from "../src/base/config.js";
import { SEARCH_ATTRIBUTES } from "../workflows/contract.js";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const read = (file: string) => readFileSync(join(ROOT, file), "utf8");

/** What an operator puts into .env. */
const SECRETS = {
  POSTGRES_PASSWORD: "a".repeat(64),
  TEMPORAL_POSTGRES_PASSWORD: "b".repeat(64),
  KEYTOLL_SECRET: "c".repeat(64),
  KEYTOLL_ADMIN_TOKEN: "d".repeat(64),
};
const UPSTREAM = {
  KEYTOLL_UPSTREAM_URL: "https://upstream.example/v1",
  KEYTOLL_UPSTREAM_KEY: "key",
};

type Env = Record<string, string>;
type Condition = "service_healthy" | "service_completed_successfully";

interface Service {
  image: string;
  build?: string;
  restart: string;
  command?: string | string[];
  depends_on?: Record<string, { condition: Condition }>;
  environment: Env;
  ports?: string[];
  configs?: (string | { source: string })[];
  volumes?: string[];
  healthcheck?: { test: string[] };
}

interface Compose {
  services: Record<string, Service>;
  configs: Record<string, { content: string }>;
  volumes: Record<string, unknown>;
}

/**
 * Puts variables into a text as Compose does. @throws Error that names a required one which is not
 * set
 */
function interpolated(text: string, env: Env): string {
  return text.replace(
    /\$\$|\$\{(\w+)(?::([-?])([^}]*))?\}/g,
    (match, name?: string, kind?: string, rest?: string) => {
      if (name === undefined) return match.slice(1);
      const value = env[name];
      if (value) return value;
      if (kind === "-") return rest ?? "";
      throw new Error(`${name}: ${rest}`);
    },
  );
}

const raw = parse(read("docker-compose.yml"), { merge: true }) as Compose;
const compose = (env: Env = SECRETS): Compose =>
  JSON.parse(JSON.stringify(raw), (_, value) =>
    typeof value === "string" ? interpolated(value, env) : value,
  ) as Compose;
const { services, configs, volumes } = compose();
const all = Object.entries(services);
const ours = all.filter(([, it]) => it.build !== undefined);

const dockerfile = read("Dockerfile")
  .split("\n")
  .filter((line) => /^[A-Z]+ /.test(line))
  .map((line) => ({ word: line.split(" ", 1)[0] ?? "", rest: line.slice(line.indexOf(" ") + 1) }));
const lines = (word: string) => dockerfile.filter((it) => it.word === word).map((it) => it.rest);
const imageEnv: Env = Object.fromEntries(
  lines("ENV").flatMap((line) => line.split(" ").map((pair) => pair.split("=", 2))),
);
const configOf = ({ environment }: Service) => readConfig({ ...imageEnv, ...environment });

describe("docker-compose.yml", () => {
  test("runs a migration, a gateway and a worker from one image, each by a verb that exists", () => {
    expect(ours.map(([name]) => name)).toEqual(["migrate", "gateway", "worker"]);
    expect(new Set(ours.map(([, it]) => it.image)).size).toBe(1);
    for (const [, { command }] of ours) {
      const [verb, ...more] = command ?? [];
      expect(more).toEqual([]);
      expect(existsSync(join(ROOT, `src/commands/${verb}.ts`)), verb).toBe(true);
    }
  });

  test("sets only variables that the configuration knows, to values that it takes", () => {
    const source = read("src/base/config.ts");
    for (const env of [SECRETS, { ...SECRETS, ...UPSTREAM }]) {
      for (const [name, service] of Object.entries(compose(env).services)) {
        if (service.build === undefined) continue;
        expect(configOf(service), name).toMatchObject({ production: true });
        const unknown = Object.keys(service.environment).filter((it) => !source.includes(it));
        expect(unknown, name).toEqual([]);
      }
    }
  });

  test("points our processes at services that are there, and the gateway at its upstream", () => {
    for (const [name, service] of ours) {
      const { databaseUrl, redisUrl, temporalAddress } = configOf(service);
      const urls = [databaseUrl, redisUrl, temporalAddress && `tcp://${temporalAddress}`];
      const hosts = urls.flatMap((url) => (url ? [new URL(url).hostname] : []));
      expect(hosts, name).toContain("postgres");
      expect(hosts.filter((host) => !(host in services))).toEqual([]);
    }
    const { gateway } = compose({ ...SECRETS, ...UPSTREAM }).services;
    expect(gateway && configOf(gateway)).toMatchObject({
      adminToken: SECRETS.KEYTOLL_ADMIN_TOKEN,
      secrets: [SECRETS.KEYTOLL_SECRET],
      upstreamUrl: UPSTREAM.KEYTOLL_UPSTREAM_URL,
      upstreamKey: UPSTREAM.KEYTOLL_UPSTREAM_KEY,
    });
  });

  test("does not start without its secrets, and has no default for any", () => {
    for (const name of Object.keys(SECRETS)) {
      expect(() => compose({ ...SECRETS, [name]: "" }), name).toThrow(name);
    }
    const secret = /PASSWORD|PWD|SECRET|TOKEN/;
    const values = Object.values(raw.services).flatMap((it) =>
      Object.entries(it.environment ?? {}),
    );
    const guarded = values.filter(([name]) => secret.test(name));
    expect(guarded.length).toBeGreaterThan(5);
    for (const [name, value] of guarded) expect(value, name).toMatch(/^\$\{[A-Z_]+:\?[^}]+\}$/);
    const urls = values.filter(([, value]) => /:\/\/[^/]*:[^/]*@/.test(value));
    for (const [name, value] of urls) expect(value, name).toMatch(/:\$\{[A-Z_]+:\?[^}]+\}@/);
    // The admin's token is the gateway's alone; the worker signs webhooks
    const held: Record<string, number> = { gateway: 2, worker: 1 };
    for (const [name, { environment }] of all) {
      const holders = Object.keys(environment ?? {}).filter((it) =>
        /^KEYTOLL_(SECRET|ADMIN)/.test(it),
      );
      expect(holders.length, name).toBe(held[name] ?? 0);
    }
  });

  test("publishes the default ports, on this machine only, and no database", () => {
    const published = all.flatMap(([name, it]) => (it.ports ?? []).map((port) => [name, port]));
    const { port, grpcPort, temporalUiPort } = readConfig({});
    const ui = services["temporal-ui"]?.environment.TEMPORAL_UI_PORT;
    expect(published).toEqual([
      ["temporal-ui", `127.0.0.1:${temporalUiPort}:${ui}`],
      ["gateway", `127.0.0.1:${port}:${port}`],
      ["gateway", `127.0.0.1:${grpcPort}:${grpcPort}`],
    ]);
    expect(lines("EXPOSE")).toEqual([`${port} ${grpcPort}`]);
    expect(services.gateway?.healthcheck?.test.join(" ")).toContain(`127.0.0.1:${port}/healthz`);
  });

  test("waits only for services that are there and can be waited for", () => {
    for (const [name, { depends_on = {} }] of all) {
      for (const [other, { condition }] of Object.entries(depends_on)) {
        const it = services[other];
        expect(it, `${name} waits for ${other}`).toBeDefined();
        const words = (it?.healthcheck?.test ?? []).map((word) => typeof word);
        if (condition === "service_healthy")
          expect(new Set(words), other).toEqual(new Set(["string"]));
        else expect(it?.restart, other).toMatch(/^on-failure/);
      }
    }
  });

  test("starts in an order: nothing waits for itself", () => {
    const started = new Set<string>();
    for (let before = -1; before < started.size; ) {
      before = started.size;
      for (const [name, { depends_on = {} }] of all) {
        if (Object.keys(depends_on).every((other) => started.has(other))) started.add(name);
      }
    }
    expect([...started].sort()).toEqual(Object.keys(services).sort());
  });

  test("mounts only what it defines, pins every image, and restarts what should run", () => {
    for (const [name, it] of all) {
      const mounted = (it.configs ?? []).map((one) => (typeof one === "string" ? one : one.source));
      expect(
        mounted.filter((one) => !(one in configs)),
        name,
      ).toEqual([]);
      const sources = (it.volumes ?? []).map((one) => one.split(":", 1)[0] ?? "");
      expect(
        sources.filter((one) => !(one in volumes)),
        name,
      ).toEqual([]);
      if (it.build === undefined) expect(it.image).toMatch(/:[0-9]/);
      expect(it.restart, name).toMatch(/^(unless-stopped|on-failure:\d)$/);
    }
  });

  test("its scripts are valid shell, and make all search attributes of the workflows", () => {
    const scripts = Object.entries(configs).filter(([name]) => !name.endsWith(".yaml"));
    expect(scripts.length).toBeGreaterThan(0);
    for (const [name, { content }] of scripts) {
      const { status, stderr } = spawnSync("sh", ["-n"], { input: content, encoding: "utf8" });
      expect(status, `${name}: ${stderr}`).toBe(0);
    }
    const made = configs["temporal-namespace.sh"]?.content.matchAll(/--name (\w+) --type Keyword/g);
    expect([...(made ?? [])].map(([, name]) => name)).toEqual([...SEARCH_ATTRIBUTES]);
  });

  test("is what Docker Compose itself understands, where it is installed", () => {
    if (spawnSync("docker", ["compose", "version"]).status !== 0) {
      console.log("Docker Compose is not installed here: its own view of the file is not checked");
      return;
    }
    const { status, stderr } = spawnSync("docker", ["compose", "config", "--quiet"], {
      cwd: ROOT,
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ...SECRETS },
      encoding: "utf8",
    });
    expect(status, stderr).toBe(0);
  });
});

describe("Dockerfile", () => {
  test("builds on Debian, with a Node that we support, and does not run as root", () => {
    const [base = ""] = lines("ARG").map((line) => line.replace(/^NODE=/, ""));
    expect(base).toMatch(/^node:\d+-(bookworm|trixie)(-slim)?$/);
    for (const from of lines("FROM")) expect(from).toMatch(/^\$\{NODE\}( AS \w+)?$/);
    expect(Number(/\d+/.exec(base)?.[0])).toBeGreaterThanOrEqual(20);
    expect(lines("USER")).toEqual(["node"]);
  });

  test("copies files that are there and that the build may see, and starts the command line", () => {
    const seen = read(".dockerignore")
      .split("\n")
      .filter((line) => line.startsWith("!"));
    const copied = lines("COPY")
      .filter((line) => !line.startsWith("--from"))
      .flatMap((line) => line.split(" ").slice(0, -1));
    expect(copied.length).toBeGreaterThan(4);
    for (const path of copied) {
      expect(existsSync(join(ROOT, path)), path).toBe(true);
      expect(seen).toContain(`!${path}`);
    }
    const start = JSON.parse(lines("ENTRYPOINT")[0] ?? "[]") as string[];
    expect(start).toEqual(["node", "src/keytoll.mjs"]);
    const { dependencies } = JSON.parse(read("package.json")) as { dependencies: Env };
    expect(dependencies).toHaveProperty("@swc/core");
  });
});
