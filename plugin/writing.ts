// SPDX-License-Identifier: Apache-2.0
/** Writing, where somebody may not read, and where it may not be possible. */
import { writeSync } from "node:fs";
import { code, RemoraError } from "./errors.ts";

/**
 * Writes all of it, also into a non-blocking pipe that is full for a while.
 *
 * @param deadline when to give up, in milliseconds as of `Date.now()`; may be infinite.
 * @throws what the system said, EAGAIN where nobody reads.
 */
export function writeWhole(fd: number, text: string, deadline: number): void {
  const bytes = Buffer.from(text);
  for (let written = 0; written < bytes.length; ) {
    try {
      written += writeSync(fd, bytes, written);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN" || Date.now() > deadline) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

/**
 * Opens, writes or renames a file that an option named.
 *
 * @param option as it was given, with its path: `--write FILE`.
 * @throws RemoraError ioFailure with what the operating system said, but without the path: node:fs names the one that it was
 * given, which may be an unfinished file's.
 */
export function writing<T>(option: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    const why = (error as Error).message.replace(/^(E[A-Z0-9]+: .*?),.*$/s, "$1");
    throw new RemoraError(code.ioFailure, `${option} cannot be written: ${why}`, { cause: error });
  }
}
