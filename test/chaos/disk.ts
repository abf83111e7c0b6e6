import { execFileSync } from "node:child_process";
import { appendFileSync, mkdirSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";

/** A file system of its own that can be filled up. */
export interface Disk {
  /** Takes the last free byte. */
  fill(): void;
  /** Gives back what was taken. */
  free(): void;
  unmount(): void;
}

const FILLER = "filler";
const PIECE = 4_096;

/**
 * Mounts a new ext4 file system of that size on `folder`, from a sparse image beside it. Needs
 * root and loop devices.
 *
 * @throws Error of mount or mkfs where the machine does not let us
 */
export function mountDisk(folder: string, megabytes: number): Disk {
  const image = `${folder}.img`;
  mkdirSync(folder, { recursive: true });
  const run = (file: string, ...args: string[]) => execFileSync(file, args, { stdio: "pipe" });
  run("truncate", "-s", `${megabytes}M`, image);
  run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", image);
  run("mount", "-o", "loop", image, folder);
  const filler = join(folder, FILLER);
  let mounted = true;
  const unmount = () => {
    if (!mounted) return;
    mounted = false;
    run("umount", "-l", folder);
    rmSync(image, { force: true });
  };
  // A file system outlives the process that mounted it
  process.once("exit", unmount);
  return {
    fill() {
      const { bavail, bsize } = statfsSync(folder);
      try {
        run("fallocate", "-l", String(Math.max(bsize, (bavail - 4) * bsize)), filler);
        for (;;) appendFileSync(filler, Buffer.alloc(PIECE));
      } catch {
        // it is full
      }
    },
    free: () => rmSync(filler, { force: true }),
    unmount,
  };
}
