// SPDX-License-Identifier: Apache-2.0
/** The records of the pod that a person named: what its chains are made of, and where they are pinned. */

import { findAttachments } from "../chain/attachments.ts";
import { requireBpffs } from "../chain/bpffs.ts";
import type { AttachmentPins } from "../chain/pins.ts";
import { type AttachmentRecord, readAnyRecord } from "../chain/record.ts";
import { listAttachments } from "../chain/status.ts";
import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import type { AttachmentStatus } from "../model.ts";
import { select } from "./selector.ts";

export interface Recorded {
  status: AttachmentStatus;
  record: AttachmentRecord;
  pins: AttachmentPins;
}

/**
 * @returns at least one.
 * @throws RemoraError unknownContainer where the selector names no pod, or several (see `select`), or one that is going. KernelError.
 */
export function recordsOf(kernel: KernelPort, bpffs: string, selector: string): Recorded[] {
  requireBpffs(kernel, bpffs);
  const chosen = select(listAttachments(kernel, bpffs), selector);
  const recorded = findAttachments(kernel, bpffs).flatMap(({ pins, id }) => {
    const status = chosen.find(({ ifname }) => ifname === id.ifname);
    if (status === undefined) return [];
    const record = readAnyRecord(kernel, pins);
    const same = chosen.find((each) => each.containerId === record?.id.containerId && each.ifname === record.id.ifname);
    return record && same ? [{ status: same, record, pins }] : [];
  });
  if (recorded.length > 0) return recorded;
  throw new RemoraError(
    code.unknownContainer,
    `nothing is attached to ${JSON.stringify(selector)} any more: it is being deleted, or its DEL was interrupted and remora gc finishes it`,
  );
}
