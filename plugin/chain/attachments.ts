// SPDX-License-Identifier: Apache-2.0
/** Which attachments there are: a walk over the pins. */

import type { KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { type AttachmentPins, attachmentOf, belongsInAttachment, pinsIn, rootOf } from "./pins.ts";

export interface Found {
  /** From the folders' names. Of a container id that is too long for a name, the record holds the whole. */
  id: AttachmentId;
  pins: AttachmentPins;
}

/** Every folder below the root that is named like an attachment's, whole or half made, sorted by path. */
export function findAttachments(kernel: KernelPort, bpffs: string): Found[] {
  const root = rootOf(bpffs);
  return folders(kernel, root).flatMap((network) => findInNetwork(kernel, bpffs, network));
}

/** The same in one network's folder, given by its name. */
export function findInNetwork(kernel: KernelPort, bpffs: string, networkName: string): Found[] {
  return folders(kernel, `${rootOf(bpffs)}/${networkName}`).flatMap((name) => {
    const id = attachmentOf(networkName, name);
    return id ? [{ id, pins: pinsIn(bpffs, networkName, name) }] : [];
  });
}

/** Whether a folder holds nothing but what Remora puts there: what else is in it makes it somebody else's. */
export function holdsOnlyOurs(kernel: KernelPort, pins: AttachmentPins): boolean {
  return kernel.listDirectory(pins.directory).every(({ name }) => belongsInAttachment(name));
}

function folders(kernel: KernelPort, path: string): string[] {
  return kernel
    .listDirectory(path)
    .filter(({ directory }) => directory)
    .map(({ name }) => name)
    .sort();
}
