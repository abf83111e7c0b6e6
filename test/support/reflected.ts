import { fileURLToPath } from "node:url";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";

const REFLECTION = fileURLToPath(
  new URL("../../proto/grpc/reflection/v1/reflection.proto", import.meta.url),
);
const FILE = Buffer.from([0x0a]);

interface ReflectionAnswer {
  list_services_response?: { service: { name: string }[] };
  file_descriptor_response?: { file_descriptor_proto: Buffer[] };
  error_response?: { error_message: string };
}
type Stream = grpc.ClientDuplexStream<object, ReflectionAnswer>;

/** Everything that a server tells of itself: its packages, as proto-loader makes them of it. */
export async function reflect(address: string, bearer?: string) {
  const { grpc: root } = grpc.loadPackageDefinition(
    loader.loadSync(REFLECTION, { keepCase: true, oneofs: true }),
  ) as unknown as {
    grpc: { reflection: { v1: { ServerReflection: grpc.ServiceClientConstructor } } };
  };
  const client = new root.reflection.v1.ServerReflection(
    address,
    grpc.credentials.createInsecure(),
  );
  const metadata = new grpc.Metadata();
  if (bearer) metadata.set("authorization", `Bearer ${bearer}`);
  const start = client.ServerReflectionInfo as (metadata: grpc.Metadata) => Stream;
  const stream = start.call(client, metadata);
  try {
    const answers = stream[Symbol.asyncIterator]();
    const ask = async (request: object): Promise<ReflectionAnswer> => {
      stream.write(request);
      return (await answers.next()).value as ReflectionAnswer;
    };
    const { list_services_response: list } = await ask({ list_services: "" });
    const names = list?.service.map(({ name }) => name) ?? [];
    const files = new Map<string, Buffer>();
    for (const symbol of [...names, "google.rpc.ErrorInfo"]) {
      const { file_descriptor_response: found } = await ask({ file_containing_symbol: symbol });
      for (const file of found?.file_descriptor_proto ?? []) {
        files.set(file.toString("latin1"), Buffer.concat([FILE, lengthOf(file), file]));
      }
    }
    stream.end();
    const set = Buffer.concat([...files.values()]);
    const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };
    const definition = loader.loadFileDescriptorSetFromBuffer(set, options);
    return { names, definition, packages: grpc.loadPackageDefinition(definition) };
  } finally {
    stream.cancel();
    client.close();
  }
}

/** As a varint. */
function lengthOf({ length }: Buffer): Buffer {
  const bytes: number[] = [];
  let rest = length;
  for (; rest > 0x7f; rest >>= 7) bytes.push((rest & 0x7f) | 0x80);
  return Buffer.from([...bytes, rest]);
}
