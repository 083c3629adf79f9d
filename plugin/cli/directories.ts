// SPDX-License-Identifier: Apache-2.0
/** Where the command line looks for programs. */

import { existsSync } from "node:fs";
import { dirname, join } from "node:path";

/** The default of the network configuration's `programDirs`. */
export const defaultProgramDir = "/etc/remora/programs";

/** Where programs are looked up when nothing is said: the directory of the node, and behind it the library. */
export function standardDirs(executable: string | undefined): string[] {
  const library = libraryDir(executable);
  return library === undefined ? [defaultProgramDir] : [defaultProgramDir, library];
}

/**
 * The library that came with this executable: `programs/` beside `runtime/`, which holds the executable (or the
 * loader that started it). Undefined where it was not installed along.
 */
export function libraryDir(executable: string | undefined): string | undefined {
  if (executable === undefined) return undefined;
  const path = join(dirname(dirname(executable)), "programs");
  return existsSync(path) ? path : undefined;
}
