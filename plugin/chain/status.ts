// SPDX-License-Identifier: Apache-2.0
/** What is attached on this node, with counters: the records, read back from the kernel. */

import { type Direction, KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentStatus, Missing, StatusEntry } from "../model.ts";
import { findAttachments } from "./attachments.ts";
import { type Counts, noCounts, readCounters } from "./counters.ts";
import type { AttachmentPins } from "./pins.ts";
import { type AttachmentRecord, readRecord } from "./record.ts";
import { messageOf } from "./undo.ts";

/**
 * Every attachment that has a record, ordered by network, container and interface. One that is being made or removed
 * meanwhile is left out. One whose record or counters cannot be read is listed with the reason in `degraded`: it must not
 * hide the others.
 *
 * @throws KernelError where the folders themselves cannot be read.
 */
export function listAttachments(kernel: KernelPort, bpffs: string): AttachmentStatus[] {
  const list: AttachmentStatus[] = [];
  for (const { id, pins } of findAttachments(kernel, bpffs)) {
    let record: AttachmentRecord | undefined;
    try {
      record = readRecord(kernel, pins);
    } catch (error) {
      list.push({
        containerId: id.containerId,
        netns: "",
        ifname: id.ifname,
        pod: null,
        hook: "tcx",
        generation: 0,
        degraded: [{ program: "(record)", reason: messageOf(error) }],
        ingress: [],
        egress: [],
      });
      continue;
    }
    if (record) list.push(statusOf(kernel, pins, record));
  }
  return list;
}

function statusOf(kernel: KernelPort, pins: AttachmentPins, record: AttachmentRecord): AttachmentStatus {
  const unread: Missing[] = [];
  const ingress = entriesOf(kernel, pins, record, "ingress", unread);
  const egress = entriesOf(kernel, pins, record, "egress", unread);
  return {
    containerId: record.id.containerId,
    netns: record.netns,
    ifname: record.id.ifname,
    pod: record.pod,
    hook: record.hook,
    generation: record.generation,
    degraded: [...record.degraded, ...unread],
    ingress,
    egress,
  };
}

function entriesOf(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  direction: Direction,
  unread: Missing[],
): StatusEntry[] {
  const stages = record.chains[direction]?.stages;
  if (!stages) return [];
  let counts: Counts[] = [];
  try {
    counts = countsOf(
      kernel,
      pins.direction(record.generation, direction).counters,
      stages.map(({ countHead }) => countHead),
    );
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    unread.push({ program: `(${direction} counters)`, reason: error.message });
  }
  return stages.flatMap(({ entries }, position) =>
    entries.map(({ program, at, version, sha256, priority, params }) => ({
      program,
      at,
      version,
      sha256,
      priority,
      params,
      ...(counts[position] ?? noCounts()),
    })),
  );
}

function countsOf(kernel: KernelPort, path: string, countHead: boolean[]): Counts[] {
  const { fd } = kernel.openPin(path);
  try {
    return readCounters(kernel, fd, countHead);
  } finally {
    kernel.close(fd);
  }
}
