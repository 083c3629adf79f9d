// SPDX-License-Identifier: Apache-2.0
/** Pins need a bpffs; here is what to say where there is none, or none that takes them. */

import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import { rootOf } from "./pins.ts";

/** The command that mounts what a root lacks: below the customary mount point that one, elsewhere one of its own. */
export function mountCommand(root: string): string {
  const customary = "/sys/fs/bpf";
  const point = root === customary || root.startsWith(`${customary}/`) ? customary : root;
  return `mount -t bpf bpf ${point}`;
}

/** @throws RemoraError notAvailable, with the remedy, where the root does not lie on a bpffs. */
export function requireBpffs(kernel: KernelPort, bpffs: string): void {
  const root = rootOf(bpffs);
  if (kernel.isBpffs(root)) return;
  throw new RemoraError(
    code.notAvailable,
    `${root} is not on a bpffs, so no chain can be attached; mount one: ${mountCommand(root)}`,
  );
}

/** The command that makes a mount of this place take names again. */
export function remountCommand(mount: string): string {
  return `mount -o remount,rw ${mount}`;
}

/**
 * What an ADD will need that has something to attach; it finds out itself.
 *
 * @throws RemoraError notAvailable, with the remedy, where the root does not lie on a bpffs or that is read-only; KernelError.
 */
export function requireWritableBpffs(kernel: KernelPort, bpffs: string): void {
  requireBpffs(kernel, bpffs);
  const root = rootOf(bpffs);
  const mount = kernel.readOnlyMount(root);
  if (mount === undefined) return;
  throw new RemoraError(
    code.notAvailable,
    `${mount} is mounted read-only, so no chain can be attached in ${root}; mount it for writing: ${remountCommand(mount)}`,
  );
}
