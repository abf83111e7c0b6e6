import { elapsed, SECOND } from "../base/time.js";

/** Prints one line for a human. */
export type Say = (line: string) => void;

const FIRST_WORD_AFTER = SECOND;
const REMINDER_EVERY = 10 * SECOND;

/** Says that a step is under way once it has taken a second, and how long it took in the end. */
export async function watched<T>(say: Say, step: string, work: Promise<T>): Promise<T> {
  const start = elapsed();
  const seconds = () => ((elapsed() - start) / SECOND).toFixed(1);
  let told = false;
  const tell = () => {
    say(told ? `${step}: still at it after ${seconds()} s` : `${step} ...`);
    told = true;
    timer = setTimeout(tell, REMINDER_EVERY);
  };
  let timer = setTimeout(tell, FIRST_WORD_AFTER);
  try {
    const result = await work;
    if (told) say(`${step}: done in ${seconds()} s`);
    return result;
  } finally {
    clearTimeout(timer);
  }
}
