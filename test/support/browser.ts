import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium, type Page } from "playwright-core";
import { findOnPath } from "../../src/dev/find-temporal.js";

/** Debian's browser; undefined where there is none. */
export const CHROMIUM = findOnPath("chromium") ?? findOnPath("chromium-browser");

/**
 * A page in a real Chromium that runs one of our files, served from a port of its own: another
 * origin than any gateway's.
 *
 * @param script relative to test/
 */
export async function openPage(script: string): Promise<{ page: Page; close(): Promise<void> }> {
  if (CHROMIUM === undefined) throw new Error("there is no Chromium here");
  const entry = fileURLToPath(new URL(`../${script}`, import.meta.url));
  const { outputFiles } = await build({
    ...{ entryPoints: [entry], bundle: true, write: false, format: "iife", target: "es2022" },
    logLevel: "error",
  });
  const text = outputFiles[0]?.text ?? "";
  const server = createServer((request, response) => {
    const isScript = request.url === "/page.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? text : '<!doctype html><script src="/page.js"></script>');
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  return {
    page,
    async close() {
      await browser.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
