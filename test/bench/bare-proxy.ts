import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Pool } from "undici";

/** The baseline: node:http in front of undici, which passes bodies on and does nothing else. */
const upstream = new Pool(process.argv[2] ?? "", { pipelining: 1 });

function proxy(request: IncomingMessage, response: ServerResponse): void {
  const pieces: Buffer[] = [];
  request.on("data", (piece: Buffer) => pieces.push(piece));
  request.on("end", () => forward(request.url ?? "/", Buffer.concat(pieces), response));
}

function forward(path: string, body: Buffer, response: ServerResponse): void {
  const headers = ["content-type", "application/json", "authorization", "Bearer bench"];
  upstream.dispatch(
    { method: "POST", path, headers, body },
    {
      // By this method undici knows its newer kind of handler
      onRequestStart() {},
      onResponseStart(_, status, { "content-length": length }) {
        response.writeHead(status, {
          "content-type": "application/json",
          "content-length": Number(length),
        });
      },
      onResponseData(_, piece) {
        response.write(piece);
      },
      onResponseEnd: () => void response.end(),
      onResponseError: () => void response.destroy(),
    },
  );
}

const server = createServer(proxy);
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address() as AddressInfo;
  process.send?.({ ready: `http://127.0.0.1:${port}` });
});
process.once("disconnect", () => process.exit());
