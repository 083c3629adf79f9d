// SPDX-License-Identifier: Apache-2.0
/** One line of `remora doctor`. */

export interface Check {
  /** What was looked at, in two or three words. */
  check: string;
  /** `missing`: without it a pod's ADD fails. `note`: it works, but there is something to know. */
  state: "ok" | "missing" | "note";
  found: string;
  /** What to do, where there is something to do: a command to paste, or a sentence. */
  remedy?: string;
}

/** An error as one line. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
