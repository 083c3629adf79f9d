// SPDX-License-Identifier: Apache-2.0
/** The records of the pod that a person named: what its chains are made of, and where they are pinned. */

import { findAttachments } from "../chain/attachments.ts";
import { requireBpffs } from "../chain/bpffs.ts";
import type { AttachmentPins } from "../chain/pins.ts";
import { type AttachmentRecord, readRecord } from "../chain/record.ts";
import { listAttachments } from "../chain/status.ts";
import type { KernelPort } from "../kernel/port.ts";
import type { AttachmentStatus } from "../model.ts";
import { select } from "./selector.ts";

export interface Recorded {
  status: AttachmentStatus;
  record: AttachmentRecord;
  pins: AttachmentPins;
}

/** @throws RemoraError unknownContainer where the selector names no pod, or several; see `select`. KernelError. */
export function recordsOf(kernel: KernelPort, bpffs: string, selector: string): Recorded[] {
  requireBpffs(kernel, bpffs);
  const chosen = select(listAttachments(kernel, bpffs), selector);
  return findAttachments(kernel, bpffs).flatMap(({ pins, id }) => {
    const status = chosen.find(({ ifname }) => ifname === id.ifname);
    if (status === undefined) return [];
    const record = readRecord(kernel, pins);
    const same = chosen.find((each) => each.containerId === record?.id.containerId && each.ifname === record.id.ifname);
    return record && same ? [{ status: same, record, pins }] : [];
  });
}
