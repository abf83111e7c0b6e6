import { refuseField } from "../base/errors.js";

const MIN_PASSWORD = 10;
const MAX_PASSWORD = 200;
const MAX_EMAIL = 254;
/** Printable ASCII without blanks: what `lower()` of Postgres and of JavaScript agree on. */
const EMAIL = /^[!-?A-~]{1,64}@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/i;

/** An e-mail as it is stored: in lower case. @throws invalid_request_error */
export function checkEmail(value: string): string {
  const email = value.trim().toLowerCase();
  if (email === "") throw refuseField("email", "is required");
  if (email.length > MAX_EMAIL) throw refuseField("email", `has more than ${MAX_EMAIL} characters`);
  if (!EMAIL.test(email) || email.includes(".."))
    throw refuseField("email", "is not an e-mail address");
  return email;
}

/** A new password, taken as it is. @throws invalid_request_error, which never shows it */
export function checkPassword(password: string): string {
  const length = [...password].length;
  if (length === 0) throw refuseField("password", "is required");
  if (length < MIN_PASSWORD)
    throw refuseField("password", `has fewer than ${MIN_PASSWORD} characters`);
  if (length > MAX_PASSWORD)
    throw refuseField("password", `has more than ${MAX_PASSWORD} characters`);
  return password;
}
