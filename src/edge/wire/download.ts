import type { ServerResponse } from "node:http";
import type { JsonObject } from "@bufbuild/protobuf";

/** An answer that is no JSON, made piece by piece, as fast as its reader reads. */
export interface Download {
  /** MIME type. */
  type: string;
  filename: string;
  pieces: AsyncGenerator<string, void, void>;
}

export const isDownload = (answer: JsonObject | Download): answer is Download =>
  typeof answer.pieces === "object" &&
  answer.pieces !== null &&
  Symbol.asyncIterator in answer.pieces;

/**
 * Sends a download. What goes wrong before its first piece is thrown, as an ordinary refusal; what
 * goes wrong later too, and whoever catches it cuts the connection: half a file must not look whole.
 */
export async function sendDownload(
  response: ServerResponse,
  { type, filename, pieces }: Download,
  requestId: string,
): Promise<void> {
  for await (const piece of pieces) {
    if (response.destroyed) return;
    if (!response.headersSent) {
      const disposition = `attachment; filename="${filename}"`;
      response.writeHead(200, {
        "content-type": type,
        "content-disposition": disposition,
        "x-request-id": requestId,
      });
    }
    if (!response.write(piece)) await drained(response);
  }
  response.end();
}

/** Resolves when more may be written, or when nobody reads any more. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done).off("close", done);
      resolve();
    };
    response.on("drain", done).on("close", done);
  });
}
