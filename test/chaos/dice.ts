/** Random choices that a seed repeats. */
export interface Dice {
  /** From 0 up to 1. */
  roll(): number;
  /** A whole number from `low` to `high`, both included. */
  int(low: number, high: number): number;
  chance(share: number): boolean;
  pick<T>(list: readonly [T, ...T[]]): T;
  pick<T>(list: readonly T[]): T | undefined;
  /** Dice of their own, so that one player's throws do not move another's. */
  fork(): Dice;
}

/** Mulberry32: 32 bits of state are plenty for choosing what breaks next. */
export function createDice(seed: number): Dice {
  let state = seed >>> 0;
  const roll = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
  const int = (low: number, high: number) => low + Math.floor(roll() * (high - low + 1));
  const pick = <T>(list: readonly T[]): T | undefined => list[int(0, list.length - 1)];
  return {
    roll,
    int,
    chance: (share) => roll() < share,
    pick: pick as Dice["pick"],
    fork: () => createDice(int(0, 4_294_967_295)),
  };
}
