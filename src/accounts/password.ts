import { hash, verify } from "@node-rs/argon2";

/**
 * OWASP's parameters for argon2id (the library's algorithm unless told otherwise): 19 MiB, 2
 * passes, 1 lane.
 */
const COST = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };

/** @returns argon2id with its salt and parameters, as it is stored */
export const hashPassword = (password: string): Promise<string> => hash(password, COST);

let nobodys: Promise<string> | undefined;

/**
 * Compares a password with a stored hash. Without one, for an e-mail that nobody has, it does the
 * same work and answers no.
 */
export async function isPassword(password: string, stored: string | undefined): Promise<boolean> {
  nobodys ??= hashPassword("nobody has this password");
  const right = await verify(stored ?? (await nobodys), password);
  return right && stored !== undefined;
}
