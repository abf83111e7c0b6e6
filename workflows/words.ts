const NGONKA_PER_GNK = 1_000_000_000n;

/** `1204` and "key" as `1,204 keys`. */
export function counted(count: number, noun: string): string {
  return `${grouped(String(count))} ${noun}${count === 1 ? "" : "s"}`;
}

/** A decimal string of ngonka as `41.2 GNK`. */
export function gnk(amountNgonka: string): string {
  const amount = BigInt(amountNgonka);
  const fraction = (amount % NGONKA_PER_GNK).toString().padStart(9, "0").replace(/0+$/, "");
  return `${grouped((amount / NGONKA_PER_GNK).toString())}${fraction && `.${fraction}`} GNK`;
}

/** Whole seconds as `4 s`, `12 min`, `3 h`. */
export function age(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3_600)} h`;
}

/** An instant as `2026-11-22 10:02:11 UTC`. */
export function instant(at: Date): string {
  return `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

const grouped = (digits: string): string => digits.replace(/\B(?=(\d{3})+$)/g, ",");
