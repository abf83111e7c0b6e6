import { execFileSync } from "node:child_process";
import { chownSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { readOrNothing } from "./processes.js";

/** Postgres refuses to run as root: whom it runs as then, and through which command. */
export interface RunAs {
  uid?: number;
  gid?: number;
  /** Comes before the command itself. Empty in most cases. */
  through: string[];
}

interface User {
  uid: number;
  gid: number;
}

/**
 * How to run `paths`' program on `paths`' folders: as ourselves, or from root as an unprivileged
 * user. Below a private home (mode 0700) that user may pass through only with one capability, which
 * `setpriv` keeps for it.
 *
 * @throws Error where root has neither a fitting user nor a way in
 */
export function runAs(paths: string[]): RunAs {
  if (process.getuid?.() !== 0) return { through: [] };
  const user = unprivilegedUser();
  const barrier = paths.map(closedFolderAbove).find((folder) => folder !== undefined);
  if (barrier === undefined) return { ...user, through: [] };
  if (!hasSetpriv()) {
    throw new Error(
      `Postgres cannot run as root, and no other user may enter ${barrier}: ` +
        "start as a normal user, or set KEYTOLL_DATA_DIR and the clone to a folder that all may enter",
    );
  }
  return { through: passThrough(user) };
}

/**
 * Gives a folder or file to the user that Postgres runs as. Nothing to do where we are not root.
 */
export function giveToPostgres(path: string): void {
  if (process.getuid?.() !== 0) return;
  const user = unprivilegedUser();
  chownSync(path, user.uid, user.gid);
}

function unprivilegedUser(): User {
  for (const name of ["postgres", "nobody"]) {
    const line = readOrNothing("/etc/passwd")
      ?.split("\n")
      .find((entry) => entry.startsWith(`${name}:`));
    const [, , uid, gid] = line?.split(":") ?? [];
    if (uid && gid) return { uid: Number(uid), gid: Number(gid) };
  }
  execFileSync("useradd", ["--system", "--no-create-home", "postgres"]);
  return unprivilegedUser();
}

function closedFolderAbove(path: string): string | undefined {
  const folder = dirname(path);
  if (folder === path) return undefined;
  const anyoneMayEnter = (statSync(folder).mode & 0o001) !== 0;
  return anyoneMayEnter ? closedFolderAbove(folder) : folder;
}

function hasSetpriv(): boolean {
  try {
    execFileSync("setpriv", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

function passThrough({ uid, gid }: User): string[] {
  const capability = "+dac_override";
  return [
    "setpriv",
    `--reuid=${uid}`,
    `--regid=${gid}`,
    "--clear-groups",
    `--inh-caps=${capability}`,
    `--ambient-caps=${capability}`,
    "--securebits=+no_setuid_fixup",
    "--",
  ];
}
