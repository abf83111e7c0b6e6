/** A verb of the command line: `npm run keytoll -- <verb>`. */
export interface Command {
  /** What it does, in one line. */
  summary: string;
  /** What `--help` prints: arguments, flags, the environment that matters. */
  usage: string;
  /**
   * Runs the verb to its end.
   *
   * @param args what stands behind the verb, read with `parseArgs` of node:util (its errors become
   *   exit code 2)
   * @returns exit code: 0 done, 1 failed, 2 wrong usage
   */
  run(args: string[]): Promise<number>;
}
