// SPDX-License-Identifier: Apache-2.0
/** What to say of a CNI_NETNS that names no network namespace. ADD and CHECK say the same. */

import { code, RemoraError } from "../errors.ts";
import type { KernelError } from "../kernel/port.ts";

/**
 * The error for a path that was asked for an interface and has no network namespace: nothing is there, or (EINVAL) a file, as an
 * unmounted entry of /run/netns is. Undefined where it failed for another reason.
 */
export function noNamespace(netns: string, error: KernelError): RemoraError | undefined {
  if (!["ENOENT", "ENOTDIR", "EINVAL"].includes(error.code)) return undefined;
  return new RemoraError(code.invalidEnvironment, `CNI_NETNS: there is no network namespace at ${netns}`, {
    cause: error,
  });
}
