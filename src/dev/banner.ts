import type { Ready } from "./run-file.js";

/** What a human reads when everything runs. Its last line is for programs. */
export function banner(ready: Ready, dataDir: string): string {
  const rows = [
    ["API", ready.http],
    ["gRPC", ready.grpc],
    ["Temporal UI", ready.temporal_ui ?? "where the server of TEMPORAL_ADDRESS has it"],
    ["Postgres", ready.database_url],
    ["Data, logs", dataDir],
    ["Admin token", ready.admin_token_file],
  ];
  const table = rows.map(([name = "", value = ""]) => `  ${name.padEnd(14)}${value}`);
  return [
    "",
    "Keytoll is ready. Ctrl-C stops it; the data stays.",
    "",
    ...table,
    ...(ready.demo_owner_token_file ? firstRequest(ready.http, ready.demo_owner_token_file) : []),
    "",
    `ready ${JSON.stringify(ready)}`,
  ].join("\n");
}

/**
 * Three lines to paste: a management key, a child key with a daily limit of 1 GNK, a paid request.
 */
function firstRequest(http: string, tokenFile: string): string[] {
  const owner = `-H "Authorization: Bearer $(cat ${tokenFile})"`;
  const json = "-H 'content-type: application/json'";
  const keys = `${http}/api/management/keys`;
  const child = `{"name":"Client A","limit_daily_ngonka":"1000000000"}`;
  const chat = `{"model":"demo/fast","messages":[{"role":"user","content":"hi"}]}`;
  return [
    "",
    "A first request, as the demo owner (needs curl and jq):",
    "",
    `  GM=$(curl -s ${keys} ${owner} ${json} -d '{"name":"My SaaS"}' | jq -r .id)`,
    `  GC=$(curl -s ${keys}/$GM/children ${owner} ${json} -d '${child}' | jq -r .key)`,
    `  curl ${http}/v1/chat/completions -H "Authorization: Bearer $GC" ${json} -d '${chat}'`,
  ];
}
