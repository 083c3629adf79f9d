// SPDX-License-Identifier: Apache-2.0
/** Which attachments there are: a walk over the pins. */

import type { KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { type HookState, hookState } from "./hook.ts";
import { type AttachmentPins, attachmentOf, belongsInAttachment, generationOf, pinsIn, rootOf } from "./pins.ts";
import { chainPlaces } from "./places.ts";
import type { AttachmentRecord } from "./record.ts";

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

/** The generations of an attachment that are not the record's: a change is at work, or was interrupted. */
export function otherGenerations(kernel: KernelPort, pins: AttachmentPins, record: AttachmentRecord): number[] {
  return kernel
    .listDirectory(pins.directory)
    .map(({ name }) => generationOf(name))
    .filter((number): number is number => number !== undefined && number !== record.generation);
}

/** What became of an attachment's chains, at all places. */
export function hookStates(kernel: KernelPort, pins: AttachmentPins): HookState["state"][] {
  return chainPlaces.map((place) => hookState(kernel, pins, place).state);
}

function folders(kernel: KernelPort, path: string): string[] {
  return kernel
    .listDirectory(path)
    .filter(({ directory }) => directory)
    .map(({ name }) => name)
    .sort();
}
