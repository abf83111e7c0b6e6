import { afterAll, beforeAll, expect, test } from "vitest";
import { newId } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { insertSecret, readSecrets, resealSecrets } from "../../src/webhooks/secret-store.js";
import { newSigningSecret, signingVault } from "../../src/webhooks/signing.js";
import { insertEndpoint } from "../../src/webhooks/store.js";
import { freshDatabase, type TestDatabase } from "../support/database.js";

const OLD = "the old secret of the operator, 32 bytes";
const NEW = "the new secret of the operator, 32 bytes";

test("a signing secret opens only with its key, in its place, unchanged", () => {
  const vault = signingVault([OLD]);
  const secret = newSigningSecret();
  const sealed = vault.seal(secret, "a/1");
  expect(vault.open(sealed, "a/1")).toBe(secret);
  expect(sealed.sealed.includes(secret.slice(6))).toBe(false);
  expect(vault.seal(secret, "a/1").sealed).not.toEqual(sealed.sealed);
  expect(() => vault.open(sealed, "a/2")).toThrow();
  expect(() => signingVault([NEW]).open(sealed, "a/1")).toThrow(/no longer has the secret/);
  const changed = Buffer.from(sealed.sealed);
  changed.writeUInt8(changed.readUInt8(40) ^ 1, 40);
  expect(() => vault.open({ ...sealed, sealed: changed }, "a/1")).toThrow();
  expect(() => signingVault([])).toThrow("KEYTOLL_SECRET is not set");
});

let database: TestDatabase;
let sql: Sql;
beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.applicationUrl, { name: "vault test", max: 2 });
});
afterAll(async () => {
  await sql?.end();
  await database?.drop();
});

test("the operator's secret can be replaced without any endpoint noticing", async () => {
  const [account, endpoint] = [newId(), newId()];
  const secret = newSigningSecret();
  await sql`insert into account (id) values (${account})`;
  await sql.begin(async (tx) => {
    const row = { id: endpoint, account, url: "https://a.example/", events: null, at: new Date(0) };
    await insertEndpoint(tx, row);
    await insertSecret(tx, signingVault([OLD]), { endpoint, version: 1, secret });
  });
  const both = signingVault([NEW, OLD]);
  expect(await readSecrets(sql, both, endpoint)).toEqual([secret]);
  expect(await resealSecrets(sql, signingVault([NEW]))).toBe(0);
  expect(await resealSecrets(sql, both)).toBe(1);
  expect(await resealSecrets(sql, both)).toBe(0);
  expect(await readSecrets(sql, signingVault([NEW]), endpoint)).toEqual([secret]);
  await expect(readSecrets(sql, signingVault([OLD]), endpoint)).rejects.toThrow();
});
