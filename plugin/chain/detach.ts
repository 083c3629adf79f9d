// SPDX-License-Identifier: Apache-2.0
/**
 * DEL: takes an attachment away by its pins alone. It needs neither the namespace nor the previous result, may run twice
 * and beside others of its kind (a kubelet sends up to four at once), and beside an ADD that is still at work: whose
 * folder is gone cannot pin, and takes back what it made.
 */

import { type Direction, directions, KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { removeIfEmpty } from "./folders.ts";
import { releaseNodeMaps } from "./node-maps.ts";
import { type AttachmentPins, pinsOf, requireInside } from "./pins.ts";
import { Attempts } from "./undo.ts";

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

/** The same, by the attachment's paths. */
export function removeAttachment(kernel: KernelPort, pins: AttachmentPins): boolean {
  // Where no bpffs is mounted nothing of ours can be, and what is there is not ours to remove.
  if (!kernel.isBpffs(pins.root)) return false;
  const attempts = new Attempts();
  let found = false;
  attempts.try(() => {
    found = kernel.modified(pins.directory) !== undefined;
  });
  // Links first: from then on no packet runs through the rest.
  if (found) for (const direction of directions) attempts.try(() => unlink(kernel, pins, direction));
  removeTree(kernel, pins.root, pins.directory, attempts);
  removeShared(kernel, pins, attempts);
  attempts.finish();
  return found;
}

/** Removes what an attachment has had together with others, as far as it was the last: node-wide maps, the folders above. */
export function removeShared(kernel: KernelPort, pins: AttachmentPins, attempts: Attempts): void {
  attempts.try(() => releaseNodeMaps(kernel, pins.root));
  for (const path of [pins.network, pins.root]) attempts.try(() => removeIfEmpty(kernel, path));
}

/** The pin goes in any case: with the last reference the kernel detaches the link by itself. */
function unlink(kernel: KernelPort, pins: AttachmentPins, direction: Direction): void {
  const path = pins.link(direction);
  const attempts = new Attempts();
  attempts.try(() => {
    let pinned: ReturnType<KernelPort["openPin"]>;
    try {
      pinned = kernel.openPin(path);
    } catch (error) {
      if (is(error, "ENOENT")) return;
      throw error;
    }
    try {
      if (pinned.kind === "link") kernel.detachLink(pinned.fd);
    } catch (error) {
      // Its device or its namespace has died, and the link with it.
      if (!is(error, "ENOLINK")) throw error;
    } finally {
      kernel.close(pinned.fd);
    }
  });
  attempts.try(() => kernel.removePin(path));
  attempts.finish();
}

function removeTree(kernel: KernelPort, root: string, directory: string, attempts: Attempts): void {
  requireInside(root, directory);
  for (let round = 1; ; round++) {
    const before = attempts.errors.length;
    let entries: { name: string; directory: boolean }[] = [];
    attempts.try(() => {
      entries = kernel.listDirectory(directory);
    });
    // The record goes last: as long as there is anything, it says what.
    entries.sort((a, b) => Number(a.name === "record") - Number(b.name === "record"));
    for (const entry of entries) {
      const path = `${directory}/${entry.name}`;
      if (entry.directory) removeTree(kernel, root, path, attempts);
      else attempts.try(() => kernel.removePin(path));
    }
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

function is(error: unknown, ...codes: string[]): boolean {
  return error instanceof KernelError && codes.includes(error.code);
}
