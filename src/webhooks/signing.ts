import { randomBytes } from "node:crypto";
import { createVault, type Vault } from "../base/vault.js";

const SECRET_BYTES = 32;

/** A new signing secret of an endpoint, as Standard Webhooks writes them. */
export const newSigningSecret = (): string =>
  `whsec_${randomBytes(SECRET_BYTES).toString("base64")}`;

/** Keeps signing secrets. @param secrets of the operator, newest first */
export const signingVault = (secrets: readonly string[]): Vault =>
  createVault(secrets, "webhook secrets");
