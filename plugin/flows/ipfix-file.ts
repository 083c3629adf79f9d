// SPDX-License-Identifier: Apache-2.0
/**
 * An IPFIX file that is whole at any moment: it appears under its name with its first messages, and whoever reads it later
 * finds whole messages behind them, also after a disk was full. What is no regular file (a pipe, /dev/null) is written to
 * as it is.
 */

import {
  closeSync,
  ftruncateSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { writing } from "../writing.ts";

export interface IpfixFile extends Disposable {
  /** Writes all of the messages, or none. The first call gives the file its name. */
  append(messages: Buffer[]): void;
}

/** @throws RemoraError ioFailure, also of `append`: what the operating system said. */
export function openIpfixFile(path: string): IpfixFile {
  const target = writing(`--ipfix ${path}`, () => targetOf(path));
  const unfinished = target.regular ? `${target.path}.${process.pid}.part` : undefined;
  const fd = writing(`--ipfix ${path}`, () => (unfinished ? openNew(unfinished) : openSync(target.path, "w", 0o600)));
  let hidden = unfinished;
  let length = 0;
  return {
    append(messages) {
      const bytes = Buffer.concat(messages);
      writing(`--ipfix ${path}`, () => {
        try {
          for (let written = 0; written < bytes.length; )
            written += writeSync(fd, bytes, written, undefined, target.regular ? length + written : null);
        } catch (error) {
          if (target.regular) ftruncateSync(fd, length);
          throw error;
        }
        length += bytes.length;
        if (hidden === undefined) return;
        renameSync(hidden, target.path);
        hidden = undefined;
      });
    },
    [Symbol.dispose]() {
      closeSync(fd);
      if (hidden !== undefined) unlinkSync(hidden);
    },
  };
}

/** A file of this name that is nobody else's: the name can be guessed, and the folder may be everybody's. */
function openNew(path: string): number {
  rmSync(path, { force: true });
  return openSync(path, "wx", 0o600);
}

/** Where a path leads, past symbolic links, and whether a file is there or may be made there. */
function targetOf(path: string): { path: string; regular: boolean } {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return { path, regular: true };
  return { path: realpathSync(path), regular: found.isFile() };
}
