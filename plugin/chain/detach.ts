// SPDX-License-Identifier: Apache-2.0
/**
 * DEL: takes an attachment away by its pins alone. It needs neither the namespace nor the previous result, may run twice
 * and beside others of its kind (a kubelet sends up to four at once), and beside an ADD that is still at work: whose
 * folder is gone cannot pin, and takes back what it made.
 */

import type { KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { removeIfEmpty } from "./folders.ts";
import { unhook } from "./hook.ts";
import { lockDeadlines, lockOrGoOn } from "./lock.ts";
import { releaseNodeMaps } from "./node-maps.ts";
import { type AttachmentPins, pinsOf, requireInside } from "./pins.ts";
import { chainPlaces } from "./places.ts";
import { tcx } from "./tcx.ts";
import { Attempts, is } from "./undo.ts";

/** How often a folder is emptied again when an ADD beside us has put something new into it. */
const rounds = 10;

/**
 * Detaches the links, then removes everything of the attachment, and the folders of its network and of Remora where they
 * are empty then. Nothing there is success.
 *
 * @returns whether there was anything.
 * @throws KernelError, or an AggregateError of several: all the rest was tried.
 */
export function detach(kernel: KernelPort, bpffs: string, id: AttachmentId): boolean {
  return removeAttachment(kernel, pinsOf(bpffs, id));
}

/** The same, after whoever is at work on the attachment; but not later than DEL's deadline. */
export async function detachWhenFree(kernel: KernelPort, bpffs: string, id: AttachmentId): Promise<boolean> {
  const pins = pinsOf(bpffs, id);
  const locked = await lockOrGoOn(kernel, pins, lockDeadlines.del);
  if (locked === "gone") {
    const attempts = new Attempts();
    if (kernel.isBpffs(pins.root)) removeShared(kernel, pins, attempts);
    attempts.finish();
    return false;
  }
  using _ = locked;
  return removeAttachment(kernel, pins);
}

/** The same, by the attachment's paths. */
export function removeAttachment(kernel: KernelPort, pins: AttachmentPins): boolean {
  // Where no bpffs is mounted nothing of ours can be, and what is there is not ours to remove.
  if (!kernel.isBpffs(pins.root)) return false;
  const attempts = new Attempts();
  let found = false;
  attempts.try(() => {
    found = kernel.modified(pins.directory) !== undefined;
  });
  if (found) unlinkAll(kernel, pins, attempts);
  if (!stillHangs(kernel, pins, attempts)) removeTree(kernel, pins.root, pins.directory, attempts);
  removeShared(kernel, pins, attempts);
  attempts.finish();
  return found;
}

/**
 * Removes what an attachment's folder holds, and leaves the folder to whoever has locked it.
 * @throws as `detach` does.
 */
export function emptyAttachment(kernel: KernelPort, pins: AttachmentPins): void {
  const attempts = new Attempts();
  unlinkAll(kernel, pins, attempts);
  if (!stillHangs(kernel, pins, attempts)) removeContents(kernel, pins.root, pins.directory, attempts);
  attempts.finish();
}

/** Whether a filter could not be taken off: without the rest its chain would be broken, and its packets would be dropped. */
function stillHangs(kernel: KernelPort, pins: AttachmentPins, { errors }: Attempts): boolean {
  if (errors.length === 0) return false;
  return chainPlaces.some((place) => {
    try {
      return kernel.modified(pins.filter(place)) !== undefined;
    } catch {
      return false;
    }
  });
}

/**
 * The record first: links without one tell of a removal that was decided, and gc finishes it. The journal before the links as
 * well, or a change that was decided would be carried on after a DEL that died halfway (see settle.ts); but not before
 * the record: while the journal is there, links may belong to it. Then the links: from then on no packet runs through
 * the rest.
 */
function unlinkAll(kernel: KernelPort, pins: AttachmentPins, attempts: Attempts): void {
  for (const path of [pins.record, pins.nextRecord]) attempts.try(() => kernel.removePin(path));
  for (const place of chainPlaces) attempts.try(() => unhook(kernel, pins, place));
  attempts.try(() => tcx.remove(kernel, pins.nextLink));
}

/** Removes what an attachment has had together with others, as far as it was the last: node-wide maps, the folders above. */
export function removeShared(kernel: KernelPort, pins: AttachmentPins, attempts: Attempts): void {
  attempts.try(() => releaseNodeMaps(kernel, pins.root));
  for (const path of [pins.network, pins.root]) attempts.try(() => removeIfEmpty(kernel, path));
}

/** Removes a folder and all below it; goes on over errors. */
export function removeTree(kernel: KernelPort, root: string, directory: string, attempts: Attempts): void {
  for (let round = 1; ; round++) {
    const before = attempts.errors.length;
    removeContents(kernel, root, directory, attempts);
    try {
      kernel.removeDirectory(directory);
      return;
    } catch (error) {
      const again = is(error, "ENOTEMPTY") && attempts.errors.length === before && round < rounds;
      if (again) continue;
      attempts.errors.push(error);
      return;
    }
  }
}

function removeContents(kernel: KernelPort, root: string, directory: string, attempts: Attempts): void {
  requireInside(root, directory);
  let entries: { name: string; directory: boolean }[] = [];
  attempts.try(() => {
    entries = kernel.listDirectory(directory);
  });
  // A generation's counters go first: as long as they are there, all that is needed to carry them on is (see settle.ts).
  const rank = (name: string): number => (name === "counters" ? 0 : 1);
  entries.sort((a, b) => rank(a.name) - rank(b.name));
  for (const entry of entries) {
    const path = `${directory}/${entry.name}`;
    if (entry.directory) removeTree(kernel, root, path, attempts);
    else attempts.try(() => kernel.removePin(path));
  }
}
