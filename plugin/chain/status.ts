// SPDX-License-Identifier: Apache-2.0
/** What is attached on this node, with counters: the records, read back from the kernel. */

import { KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentStatus, Missing, StatusEntry } from "../model.ts";
import { findAttachments } from "./attachments.ts";
import { type Counts, noCounts, totalCounts } from "./counters.ts";
import type { AttachmentPins } from "./pins.ts";
import type { ChainPlace } from "./places.ts";
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
    if (record) list.push(statusOf(kernel, pins, record, rounds));
  }
  return list;
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
    degraded: [...record.degraded.map(({ program, reason }) => ({ program, reason })), ...unread],
    ingress,
    egress,
  };
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
