// SPDX-License-Identifier: Apache-2.0
/** Reads a file whole that somebody else named: nothing that it may be makes the reader wait, or take more memory than it should. */

import type { Stats } from "node:fs";
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";

export interface Reading {
  maxBytes: number;
  /** Of open(2), beside those that it takes to read. */
  flags?: number;
  /** The error for what is wrong with the file, and what would be right. */
  refuse(wrong: string, remedy: string): Error;
  /** Looks at the open file before it is read; throws where it must not be. */
  examine?(stat: Stats): void;
}

/** Throws what `refuse` makes: for what is no regular file, or too large; and what node:fs throws. */
export function readRegularFile(path: string, { maxBytes, flags = 0, refuse, examine }: Reading): Buffer {
  // O_NONBLOCK: a FIFO must be refused, not waited for.
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | flags);
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw refuse("it is not a regular file", "put a regular file in its place");
    examine?.(stat);
    if (stat.size > maxBytes) throw refuse(`it is larger than ${maxBytes} bytes`, "put a smaller file in its place");
    // One byte more than it should have: a file that grows meanwhile is noticed.
    const bytes = Buffer.alloc(stat.size + 1);
    let length = 0;
    for (let read = -1; read !== 0 && length < bytes.length; length += read) {
      read = readSync(file, bytes, length, bytes.length - length, null);
    }
    if (length > stat.size)
      throw refuse("it is longer than it says, or grows", "write a new file and rename it into place");
    return bytes.subarray(0, length);
  } finally {
    closeSync(file);
  }
}
