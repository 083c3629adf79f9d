// SPDX-License-Identifier: Apache-2.0
/** Pins need a bpffs; here is what to say where there is none. */

import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import { rootOf } from "./pins.ts";

/** @throws RemoraError notAvailable, with the remedy, where the root does not lie on a bpffs. */
export function requireBpffs(kernel: KernelPort, bpffs: string): void {
  const root = rootOf(bpffs);
  if (kernel.isBpffs(root)) return;
  const customary = "/sys/fs/bpf";
  const point = root === customary || root.startsWith(`${customary}/`) ? customary : root;
  throw new RemoraError(
    code.notAvailable,
    `${root} is not on a bpffs, so no chain can be attached; mount one: mount -t bpf bpf ${point}`,
  );
}
