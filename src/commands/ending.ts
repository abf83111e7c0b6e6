/** Resolves when we are asked to stop, or when the process that started us is gone. */
export function untilTold(): Promise<void> {
  return new Promise((resolve) => {
    for (const event of ["SIGTERM", "SIGINT", "disconnect"]) process.once(event, () => resolve());
  });
}
