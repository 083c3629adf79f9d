// SPDX-License-Identifier: Apache-2.0
/** Collection of what nobody deletes: CNI's GC, told what lives, and the node's own, which finds out by itself. */

import { KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import {
  type Found,
  findAttachments,
  findInNetwork,
  holdsOnlyOurs,
  hookStates,
  otherGenerations,
} from "./attachments.ts";
import { namespaceIsGone } from "./clsact.ts";
import { removeAttachment } from "./detach.ts";
import { removeIfEmpty } from "./folders.ts";
import { Lock, lockDeadlines, lockOrGoOn, tryLock } from "./lock.ts";
import { releaseNodeMaps } from "./node-maps.ts";
import { type AttachmentPins, attachmentName, encodeName, rootOf } from "./pins.ts";
import { type AttachmentRecord, isSameNamespace, readAnyRecord, readRecord } from "./record.ts";
import { settle } from "./settle.ts";
import { traceWasLeft } from "./trace.ts";
import { messageOf } from "./undo.ts";

export interface Collected {
  /** Attachments that stay, and what was done to finish or take back an interrupted change of them. */
  settled: (AttachmentId & { what: string })[];
  /** What was removed, and why. */
  removed: (AttachmentId & { reason: string })[];
  /** What should have been removed and could not be, wholly. */
  failed: (AttachmentId & { error: unknown })[];
}

/**
 * CNI GC: removes every attachment of one network that is not among the valid ones. The runtime sees to it that no ADD
 * runs meanwhile (CNI 1.1, "Lifecycle & Ordering"). Goes on over errors.
 */
export async function collectNetwork(
  kernel: KernelPort,
  bpffs: string,
  network: string,
  valid: Pick<AttachmentId, "containerId" | "ifname">[],
): Promise<Collected> {
  const keep = new Set(valid.map((id) => `/${attachmentName(id)}`));
  const doomed = findInNetwork(kernel, bpffs, encodeName(network)).filter(
    ({ pins }) => !keep.has(pins.directory.slice(pins.directory.lastIndexOf("/"))),
  );
  const collected: Collected = { settled: [], removed: [], failed: [] };
  for (const found of doomed) {
    const locked = await lockOrGoOn(kernel, found.pins, lockDeadlines.gc);
    if (locked === "gone") continue;
    using _ = locked;
    consider(kernel, found, () => "not among the valid attachments", collected);
  }
  return collected;
}

/** An ADD takes milliseconds; a folder that nothing was added to for so long is no longer worked at. */
export const defaultGraceSeconds = 120;

/**
 * `remora gc`: removes attachments, of all networks, whose links have lost their interface (the namespace is gone), whose
 * namespace is gone where they have no links, what an interrupted ADD left before it attached anything, and what an
 * interrupted DEL left. Where an ADD or a change was interrupted at its links, that is finished or taken back (settle.ts);
 * else an attachment with a link in place stays. What somebody has locked is left alone: he is at work on it. Goes on over
 * errors.
 *
 * @param options.graceSeconds how long a folder that is not complete is left alone: an ADD may be at work in it.
 * @param options.now milliseconds since the epoch.
 * @param options.dryRun removes nothing; the result says what would be removed.
 */
export function collect(
  kernel: KernelPort,
  bpffs: string,
  options: { graceSeconds?: number; now?: number; dryRun?: boolean } = {},
): Collected {
  const { graceSeconds = defaultGraceSeconds, now = Date.now(), dryRun = false } = options;
  const collected: Collected = { settled: [], removed: [], failed: [] };
  for (const found of findAttachments(kernel, bpffs)) {
    if (!holdsOnlyOurs(kernel, found.pins)) continue;
    let locked: Lock | "busy" | "gone";
    try {
      locked = tryLock(kernel, found.pins);
    } catch (error) {
      collected.failed.push({ ...found.id, error });
      continue;
    }
    if (!(locked instanceof Lock)) continue;
    using _ = locked;
    const reason = (): string | undefined => {
      const why = whyStale(kernel, found);
      if (why === undefined || why.certain) return why?.reason;
      const changed = kernel.modified(found.pins.directory);
      return changed !== undefined && now - changed >= graceSeconds * 1000 ? why.reason : undefined;
    };
    if (!consider(kernel, found, reason, collected, dryRun)) settleOne(kernel, found, collected, dryRun);
  }
  if (!dryRun && kernel.isBpffs(rootOf(bpffs))) releaseShared(kernel, bpffs);
  return collected;
}

/** What a killed ADD or DEL may have left and no attachment's removal finds: maps of scope node, and folders that are empty. */
function releaseShared(kernel: KernelPort, bpffs: string): void {
  releaseNodeMaps(kernel, bpffs);
  const root = rootOf(bpffs);
  for (const { name, directory } of kernel.listDirectory(root)) if (directory) removeIfEmpty(kernel, `${root}/${name}`);
  removeIfEmpty(kernel, root);
}

/** @returns whether it was to be removed, or could not be considered. */
function consider(
  kernel: KernelPort,
  found: Found,
  why: () => string | undefined,
  collected: Collected,
  dryRun = false,
): boolean {
  try {
    const reason = why();
    if (reason === undefined || !holdsOnlyOurs(kernel, found.pins)) return false;
    const id = wholeId(kernel, found);
    if (!dryRun) removeAttachment(kernel, found.pins);
    collected.removed.push({ ...id, reason });
  } catch (error) {
    collected.failed.push({ ...found.id, error });
  }
  return true;
}

function settleOne(kernel: KernelPort, found: Found, collected: Collected, dryRun: boolean): void {
  try {
    const interrupted = whatWasInterrupted(kernel, found.pins);
    if (interrupted === undefined) return;
    const id = wholeId(kernel, found);
    const what = dryRun ? `${interrupted} was interrupted` : settle(kernel, found.pins);
    if (what === undefined) return;
    // An ADD that could not be finished is gone as a whole.
    if (!dryRun && kernel.modified(found.pins.directory) === undefined) collected.removed.push({ ...id, reason: what });
    else collected.settled.push({ ...id, what });
  } catch (error) {
    collected.failed.push({ ...found.id, error });
  }
}

function whatWasInterrupted(kernel: KernelPort, pins: AttachmentPins): string | undefined {
  const record = readRecord(kernel, pins);
  if (!record) return hookStates(kernel, pins).includes("attached") ? "an ADD" : undefined;
  if (otherGenerations(kernel, pins, record).length > 0) return "a change";
  return traceWasLeft(kernel, pins) ? "a trace" : undefined;
}

/** `certain` where no ADD can be at work. Asked under the attachment's lock. */
function whyStale(kernel: KernelPort, { pins }: Found): { reason: string; certain: boolean } | undefined {
  const links = hookStates(kernel, pins);
  if (links.includes("attached")) {
    const recorded = [pins.record, pins.nextRecord].some((path) => kernel.modified(path) !== undefined);
    return recorded ? undefined : { reason: "a DEL did not end", certain: true };
  }
  // Removed by somebody in the pod, or out of our sight: no reason to take a pod for gone. But a DEL may have come so far.
  if (links.includes("removed") || links.includes("unseen")) {
    if (kernel.modified(pins.record) !== undefined) return undefined;
    if (kernel.modified(pins.nextRecord) === undefined) return { reason: "a DEL did not end", certain: true };
    return links.includes("unseen") ? undefined : { reason: "an ADD did not end", certain: false };
  }
  if (links.includes("detached") || links.includes("foreign"))
    return { reason: "its interface is gone", certain: true };
  let record: AttachmentRecord | undefined;
  try {
    record = readRecord(kernel, pins);
  } catch (error) {
    if (error instanceof KernelError) throw error;
    return { reason: messageOf(error), certain: false };
  }
  if (!record) return { reason: "an ADD did not end", certain: false };
  if (!namespaceIsThere(kernel, record)) return { reason: "its network namespace is gone", certain: true };
  // Nothing but a record is whole where no program could be attached (failurePolicy open).
  return Object.keys(record.chains).length > 0 ? { reason: "an ADD did not end", certain: false } : undefined;
}

/** Paths of namespaces are used again; the identity tells whether this one still is the one that was attached in. */
function namespaceIsThere(kernel: KernelPort, record: AttachmentRecord): boolean {
  const found = kernel.namespaceIdentity(record.netns);
  if (!found) return !namespaceIsGone(kernel, record.netns);
  return isSameNamespace(record.namespace, found);
}

function wholeId(kernel: KernelPort, { id, pins }: Found): AttachmentId {
  try {
    return readAnyRecord(kernel, pins)?.id ?? id;
  } catch {
    return id;
  }
}
