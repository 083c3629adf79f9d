// SPDX-License-Identifier: Apache-2.0
/** Folders of the bpffs that several attachments share: made where they are missing, removed where they are empty. */

import { KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentPins } from "./pins.ts";

/** How often the folders above an attachment's are made again when a DEL beside us has removed them as empty. */
const rounds = 10;

/** Makes an attachment's folder, and what is missing above it. One that is there is well. */
export function makeAttachmentFolder(kernel: KernelPort, pins: AttachmentPins): void {
  for (let round = 1; ; round++) {
    try {
      ensureDirectory(kernel, pins.root);
      ensureDirectory(kernel, pins.network);
      kernel.makeDirectory(pins.directory);
      return;
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      if (error.code === "EEXIST") return;
      if (error.code !== "ENOENT" || round === rounds) throw error;
    }
  }
}

/** Makes a folder, and those above it that are missing. ENOENT where another's DEL removes them meanwhile. */
export function ensureDirectory(kernel: KernelPort, path: string): void {
  for (const parentMade of [false, true]) {
    try {
      kernel.makeDirectory(path);
      return;
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      if (error.code === "EEXIST") return;
      const parent = path.slice(0, path.lastIndexOf("/"));
      if (error.code !== "ENOENT" || parentMade || parent === "") throw error;
      ensureDirectory(kernel, parent);
    }
  }
}

/** Leaves a folder that holds something, and the one on which the bpffs is mounted. */
export function removeIfEmpty(kernel: KernelPort, path: string): void {
  try {
    kernel.removeDirectory(path);
  } catch (error) {
    if (!(error instanceof KernelError && ["ENOTEMPTY", "EBUSY"].includes(error.code))) throw error;
  }
}
