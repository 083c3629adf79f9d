// SPDX-License-Identifier: Apache-2.0
/** Collection of what nobody deletes: CNI's GC, told what lives, and the node's own, which finds out by itself. */

import { KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { type Found, findAttachments, findInNetwork, holdsOnlyOurs, otherGenerations } from "./attachments.ts";
import { removeAttachment } from "./detach.ts";
import { Lock, lockDeadlines, lockOrGoOn, tryLock } from "./lock.ts";
import { releaseNodeMaps } from "./node-maps.ts";
import { attachmentName, encodeName, rootOf } from "./pins.ts";
import { chainPlaces } from "./places.ts";
import { type AttachmentRecord, readRecord, recordedNamespace } from "./record.ts";
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
 * namespace is gone where they have no links, and what an interrupted ADD left half made. An attachment with a link
 * in place is never removed; where a change of it was interrupted, that is finished or taken back (settle.ts). What somebody
 * has locked is left alone: he is at work on it. Goes on over errors.
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
  // A killed ADD may have left maps of scope node that no attachment's removal has found.
  if (!dryRun && kernel.isBpffs(rootOf(bpffs))) releaseNodeMaps(kernel, bpffs);
  return collected;
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
    const record = readRecord(kernel, found.pins);
    if (!record) return;
    const changed = otherGenerations(kernel, found.pins, record).length > 0;
    if (!changed && !traceWasLeft(kernel, found.pins)) return;
    const what = dryRun ? `a ${changed ? "change" : "trace"} was interrupted` : settle(kernel, found.pins);
    if (what !== undefined) collected.settled.push({ ...record.id, what });
  } catch (error) {
    collected.failed.push({ ...found.id, error });
  }
}

/** `certain` where no ADD can be at work. */
function whyStale(kernel: KernelPort, { pins }: Found): { reason: string; certain: boolean } | undefined {
  const links = chainPlaces.map((place) => linkState(kernel, pins.link(place)));
  if (links.includes("attached")) return undefined;
  if (links.includes("detached")) return { reason: "its interface is gone", certain: true };
  let record: AttachmentRecord | undefined;
  try {
    record = readRecord(kernel, pins);
  } catch (error) {
    if (error instanceof KernelError) throw error;
    return { reason: messageOf(error), certain: false };
  }
  if (!record) return { reason: "an ADD did not end", certain: false };
  if (!sameNamespace(kernel, record)) return { reason: "its network namespace is gone", certain: true };
  // Nothing but a record is whole where no program could be attached (failurePolicy open).
  return Object.keys(record.chains).length > 0 ? { reason: "an ADD did not end", certain: false } : undefined;
}

function linkState(kernel: KernelPort, path: string): "missing" | "attached" | "detached" {
  let pinned: ReturnType<KernelPort["openPin"]>;
  try {
    pinned = kernel.openPin(path);
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENOENT") return "missing";
    throw error;
  }
  try {
    return pinned.kind === "link" && kernel.linkInfo(pinned.fd).ifindex !== 0 ? "attached" : "detached";
  } finally {
    kernel.close(pinned.fd);
  }
}

/** Paths of namespaces are used again; the identity tells whether this one still is the one that was attached in. */
function sameNamespace(kernel: KernelPort, record: AttachmentRecord): boolean {
  const found = kernel.namespaceIdentity(record.netns);
  if (!found) return false;
  const { dev, ino } = recordedNamespace(found);
  return dev === record.namespace.dev && ino === record.namespace.ino;
}

function wholeId(kernel: KernelPort, { id, pins }: Found): AttachmentId {
  try {
    return readRecord(kernel, pins)?.id ?? id;
  } catch {
    return id;
  }
}
