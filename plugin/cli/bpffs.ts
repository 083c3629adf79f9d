// SPDX-License-Identifier: Apache-2.0
/** The pins' folder has to lie on a bpffs; here is what to say where it does not. */

import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";

/** The command that puts it right. Below /sys/fs/bpf the customary mount point serves; elsewhere its own. */
export function mountRemedy(bpffs: string): string {
  const point = bpffs === "/sys/fs/bpf" || bpffs.startsWith("/sys/fs/bpf/") ? "/sys/fs/bpf" : bpffs;
  return `mount -t bpf bpf ${point}`;
}

/** Throws RemoraError (notAvailable), with the remedy, where no bpffs is mounted. */
export function requireBpffs(kernel: KernelPort, bpffs: string): void {
  if (kernel.isBpffs(bpffs)) return;
  throw new RemoraError(
    code.notAvailable,
    `${bpffs} is not on a bpffs, so nothing can be attached there; mount one (${mountRemedy(bpffs)}) or name another with --bpffs`,
  );
}
