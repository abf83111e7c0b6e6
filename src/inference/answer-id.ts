import { newId } from "../base/ids.js";

/** An id of ours for an answer, in the form that OpenAI's clients know. */
export const newAnswerId = (): string => `chatcmpl-${newId().replaceAll("-", "")}`;
