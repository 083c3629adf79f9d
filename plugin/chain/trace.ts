// SPDX-License-Identifier: Apache-2.0
/**
 * A trace that lies over an attachment's chain: the same programs, with the same maps and counters, in stages that report each
 * packet. The links point to it while somebody watches, and the record says nothing of it: below it the chain is
 * whole, so that taking the trace away needs no more than pointing the links back.
 *
 * Who traces holds the lock of the trace's folder (flock) for as long as he lives. A folder that nobody has locked was left
 * by one who died: whoever settles the attachment next takes it away. Until then packets meet the same programs and
 * verdicts as ever; only their reports find nobody. A change of the chain points the links elsewhere: that ends a trace.
 */

import type { KernelPort } from "../kernel/port.ts";
import { u32 } from "./bytes.ts";
import { removeTree } from "./detach.ts";
import { hookState } from "./hook.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces } from "./places.ts";
import { Attempts, Handles } from "./undo.ts";

/** The program id of a trace's first stage; undefined where the place is not traced. */
export function tracedHead(kernel: KernelPort, pins: AttachmentPins, place: ChainPlace): number | undefined {
  using handles = new Handles(kernel);
  const pinned = handles.openPin(pins.trace.chain(place));
  return pinned?.kind === "map" ? kernel.lookupMap(pinned.fd, u32(0))?.readUInt32LE() : undefined;
}

/** Whether packets run through the trace: a link points to one of its heads. */
export function traceIsActive(kernel: KernelPort, pins: AttachmentPins): boolean {
  return chainPlaces.some((place) => {
    const head = tracedHead(kernel, pins, place);
    if (head === undefined) return false;
    const found = hookState(kernel, pins, place);
    return found.state === "attached" && found.programId === head;
  });
}

/** Whether somebody who traced has died and left his trace. */
export function traceWasLeft(kernel: KernelPort, pins: AttachmentPins): boolean {
  if (kernel.modified(pins.trace.directory) === undefined) return false;
  const lock = kernel.tryLock(pins.trace.directory);
  if (lock !== undefined) kernel.close(lock);
  return lock !== undefined;
}

/**
 * Takes away a trace that nobody watches any more, or that a change has overtaken. Done under the attachment's lock.
 *
 * @param point gives each link the record's chain.
 * @returns what was done, in words; undefined where there was nothing to do.
 */
export function settleTrace(kernel: KernelPort, pins: AttachmentPins, point: () => void): string | undefined {
  if (kernel.modified(pins.trace.directory) === undefined) return undefined;
  if (!traceWasLeft(kernel, pins) && traceIsActive(kernel, pins)) return undefined;
  removeTrace(kernel, pins, point);
  return "what was left of a trace was removed";
}

/** Takes a trace away: its stages go when no packet can be in them any more. */
export function removeTrace(kernel: KernelPort, pins: AttachmentPins, point: () => void): void {
  if (traceIsActive(kernel, pins)) point();
  kernel.awaitPrograms();
  const attempts = new Attempts();
  removeTree(kernel, pins.root, pins.trace.directory, attempts);
  attempts.finish();
}
