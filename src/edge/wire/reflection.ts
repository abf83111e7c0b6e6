import { createRegistry, type DescFile, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { file_google_rpc_errors } from "../../gen/google/rpc/errors_pb.js";
import {
  ServerReflection,
  type ServerReflectionRequest,
  type ServerReflectionResponseSchema,
} from "../../gen/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection as OlderReflection } from "../../gen/grpc/reflection/v1alpha/reflection_pb.js";
import { type CallContext, type Handlers, type ServiceTable, service } from "./handlers.js";

type Answer = NonNullable<
  MessageInitShape<typeof ServerReflectionResponseSchema>["messageResponse"]
>;

/**
 * The table with server reflection (v1 and v1alpha) for all its services.
 *
 * @param guard throws where this caller may not look: the descriptors name every unit and method
 */
export function withReflection(
  services: ServiceTable,
  guard: (caller: CallContext) => void | Promise<void>,
): ServiceTable {
  const described = [...services.map(({ desc }) => desc), ServerReflection, OlderReflection];
  const names = described.map(({ typeName }) => ({ name: typeName }));
  // Error details travel packed, so no file of a service imports theirs.
  const files = importsOf([...described.map(({ file }) => file), file_google_rpc_errors]);
  const types = createRegistry(...files);

  function fileOf(symbol: string): DescFile | undefined {
    const type = types.get(symbol) ?? types.get(symbol.slice(0, symbol.lastIndexOf(".")));
    return type?.file;
  }
  function answer({ messageRequest }: ServerReflectionRequest): Answer {
    switch (messageRequest.case) {
      case "listServices":
        return { case: "listServicesResponse", value: { service: names } };
      case "fileByFilename":
        return describe(files.find((file) => file.proto.name === messageRequest.value));
      case "fileContainingSymbol":
        return describe(fileOf(messageRequest.value));
      default:
        return describe(undefined);
    }
  }
  const handlers: Handlers<typeof ServerReflection> = {
    async *serverReflectionInfo(requests, caller) {
      await guard(caller);
      for await (const request of requests) {
        const messageResponse = answer(request);
        yield { validHost: request.host, originalRequest: request, messageResponse };
      }
    },
  };
  return [...services, service(ServerReflection, handlers), service(OlderReflection, handlers)];
}

function describe(file: DescFile | undefined): Answer {
  if (!file) {
    const value = { errorCode: Code.NotFound, errorMessage: "not found" };
    return { case: "errorResponse", value };
  }
  const fileDescriptorProto = importsOf([file]).map(({ proto }) =>
    toBinary(FileDescriptorProtoSchema, proto),
  );
  return { case: "fileDescriptorResponse", value: { fileDescriptorProto } };
}

/** The files and all that they import, each once, the given ones first. */
function importsOf(files: readonly DescFile[]): DescFile[] {
  const all = new Map(files.map((file) => [file.name, file]));
  for (const file of all.values()) {
    for (const imported of file.dependencies) all.set(imported.name, imported);
  }
  return [...all.values()];
}
