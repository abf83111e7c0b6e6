import { withPatience } from "./outage.js";
import { connect } from "./sql.js";

/** What serve and work act as: it cannot change or remove what is on record. */
export const APPLICATION = "keytoll_app";

/** What an operator runs once, as a superuser, where the login may not make or take the role. */
export const HOW_TO_GRANT = [
  `create role ${APPLICATION} nologin;  -- unless it is there`,
  `grant ${APPLICATION} to <the login of DATABASE_URL>;`,
];

/** Milliseconds that a start waits for a database that is starting as well. */
const PATIENCE = 10_000;
const NO_SUCH_ROLE = "22023";
const NOT_ALLOWED = "42501";
const NO_SUCH_TABLE = "42P01";

/**
 * The same database, with every session acting as the application's role from its first statement
 * on. Undefined where the login may not take that role, or it has no privileges here yet: then only
 * the triggers keep the record.
 *
 * @throws when the database is away
 */
export async function asApplication(databaseUrl: string): Promise<string | undefined> {
  const sql = connect(databaseUrl, { name: "keytoll role", max: 1 });
  try {
    await sql.begin(async (tx) => {
      await tx`set local role ${tx(APPLICATION)}`;
      await tx`select from account limit 1`;
    });
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === NO_SUCH_ROLE || code === NOT_ALLOWED || code === NO_SUCH_TABLE) return undefined;
    throw error;
  } finally {
    await sql.end({ timeout: 5 });
  }
  const url = new URL(databaseUrl);
  url.searchParams.set("role", APPLICATION);
  return url.href;
}

/**
 * As `asApplication`; where that cannot be, the URL as it is, said once.
 *
 * @param warn told why, and what helps
 */
export async function applicationUrl(
  databaseUrl: string,
  warn: (message: string) => void,
): Promise<string> {
  const url = await withPatience(PATIENCE, () => asApplication(databaseUrl));
  if (url) return url;
  warn(
    `the login of DATABASE_URL cannot act as ${APPLICATION}: only triggers keep the journal from ` +
      "being changed; `keytoll migrate` says what to run",
  );
  return databaseUrl;
}
