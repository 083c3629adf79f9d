// SPDX-License-Identifier: Apache-2.0
/** What is attached on this node, with counters: the records, read back from the kernel. */

import { RemoraError } from "../errors.ts";
import { KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentStatus, Behind, HookName, Missing, StatusEntry } from "../model.ts";
import { type Found, findAttachments, hookStates } from "./attachments.ts";
import { type Counts, noCounts, totalCounts } from "./counters.ts";
import { hookState } from "./hook.ts";
import { Lock, tryLock } from "./lock.ts";
import { behindWhom } from "./order.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces, directionAt } from "./places.ts";
import { type AttachmentRecord, readNextRecord, readRecord } from "./record.ts";

/**
 * Every attachment that has a record, ordered by network, container and interface. One that is being made or removed
 * meanwhile is left out; one whose ADD or DEL was interrupted while it was attached in part is listed with that in
 * `degraded`. So is one whose record or counters cannot be read: it must not hide the others.
 *
 * @throws KernelError where the folders themselves cannot be read.
 */
export function listAttachments(kernel: KernelPort, bpffs: string): AttachmentStatus[] {
  const list: AttachmentStatus[] = [];
  for (const found of findAttachments(kernel, bpffs)) {
    try {
      const record = readRecord(kernel, found.pins);
      const status = record ? statusOf(kernel, found.pins, record, rounds) : interrupted(kernel, found);
      if (status) list.push(status);
    } catch (error) {
      if (!(error instanceof RemoraError || error instanceof KernelError)) throw error;
      list.push(unrecorded(kernel, found, { program: "(record)", reason: error.message }));
    }
  }
  return list;
}

/** All that can be said of an attachment whose record is not there, or cannot be read. */
function unrecorded(kernel: KernelPort, { id: { containerId, ifname }, pins }: Found, why: Missing): AttachmentStatus {
  const filters = chainPlaces.some((place) => kernel.modified(pins.filter(place)) !== undefined);
  const hook: HookName = filters ? "clsact" : "tcx";
  const nothing = { netns: "", pod: null, hook, generation: 0, ingress: [], egress: [] };
  return { containerId, ifname, ...nothing, degraded: [why] };
}

/** An attachment without a record, where packets run through some of its links and nobody is at work on it. */
function interrupted(kernel: KernelPort, found: Found): AttachmentStatus | undefined {
  const { pins } = found;
  if (!hookStates(kernel, pins).includes("attached")) return undefined;
  const locked = tryLock(kernel, pins);
  if (!(locked instanceof Lock)) return undefined;
  using _ = locked;
  const record = readRecord(kernel, pins);
  if (record) return statusOf(kernel, pins, record, rounds);
  const next = readNextRecord(kernel, pins);
  const why = (what: string, done: string): Missing => ({
    program: "(attachment)",
    reason: `${what} was interrupted, not every direction has its chain: remora gc ${done}`,
  });
  if (!next) return unrecorded(kernel, found, why("a DEL", "finishes it"));
  const status = statusOf(kernel, pins, next, 1);
  return { ...status, degraded: [...status.degraded, why("an ADD", "finishes it, or takes it back")] };
}

/** How often an attachment is read again that got another chain meanwhile. */
const rounds = 5;

function statusOf(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  roundsLeft: number,
): AttachmentStatus {
  const unread: Missing[] = [];
  const ingress = entriesOf(kernel, pins, record, "ingress", unread);
  // In the order in which a packet of the pod meets them.
  const egress = [
    ...entriesOf(kernel, pins, record, "egress", unread),
    ...entriesOf(kernel, pins, record, "host", unread),
  ];
  if (unread.length > 0 && roundsLeft > 1) {
    const now = readRecord(kernel, pins);
    if (now && now.generation !== record.generation) return statusOf(kernel, pins, now, roundsLeft - 1);
  }
  return {
    containerId: record.id.containerId,
    netns: record.netns,
    ifname: record.id.ifname,
    pod: record.pod,
    hook: record.hook,
    generation: record.generation,
    degraded: [
      ...record.degraded.map(({ program, reason }) => ({ program, reason })),
      ...unread,
      ...removedFrom(kernel, pins, record),
    ],
    ingress,
    egress,
    ...aheadOf(kernel, pins, record),
  };
}

/** Chains that somebody has taken off the interface, and those of which nobody can tell. */
function removedFrom(kernel: KernelPort, pins: AttachmentPins, record: AttachmentRecord): Missing[] {
  if (record.hook === "tcx") return []; // nobody can
  return chainPlaces.flatMap((place) => {
    if (!record.chains[place]) return [];
    const program = `(${place} filter)`;
    try {
      if (hookState(kernel, pins, place).state !== "removed") return [];
      const reason = `somebody has removed it from ${record.id.ifname}: no packet meets the chain; remora apply puts it back`;
      return [{ program, reason }];
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      return [{ program, reason: error.message }];
    }
  });
}

function aheadOf(kernel: KernelPort, pins: AttachmentPins, record: AttachmentRecord): Pick<AttachmentStatus, "behind"> {
  const behind = behindWhom(kernel, pins, record).map(({ place, programs }): Behind => {
    const at = place === "host" ? "host" : "pod";
    return { direction: directionAt(place), at, programs };
  });
  return behind.length > 0 ? { behind } : {};
}

function entriesOf(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  place: ChainPlace,
  unread: Missing[],
): StatusEntry[] {
  const stages = record.chains[place]?.stages;
  if (!stages) return [];
  let counts: Counts[] = [];
  try {
    const paths = pins.direction(record.generation, place);
    const found = totalCounts(
      kernel,
      paths,
      stages.map(({ countHead }) => countHead),
    );
    if (found) counts = found;
    else unread.push({ program: `(${place} counters)`, reason: `nothing is pinned at ${paths.counters}` });
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    unread.push({ program: `(${place} counters)`, reason: error.message });
  }
  return stages.flatMap(({ entries }, position) =>
    entries.map(({ program, version, sha256, priority, params }) => ({
      program,
      // Of an entry at the host's end, the ingress side stands in the pod.
      at: place === "host" ? "host" : "pod",
      version,
      sha256,
      priority,
      params,
      ...(counts[position] ?? noCounts()),
    })),
  );
}
