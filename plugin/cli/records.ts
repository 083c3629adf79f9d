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
import { select, selectToChange } from "./selector.ts";
import { shortId } from "./terminal.ts";

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
  return recorded(kernel, bpffs, selector, select);
}

/**
 * The one chain that is to be changed.
 * @throws as `recordsOf`, and RemoraError unknownContainer where there are several and no interface is named, or none of that name.
 */
export function recordToChange(
  kernel: KernelPort,
  bpffs: string,
  selector: string,
  ifname: string | undefined,
): Recorded {
  return theOne(recorded(kernel, bpffs, selector, selectToChange), selector, ifname);
}

function theOne(found: Recorded[], selector: string, ifname: string | undefined): Recorded {
  const fitting = found.filter(({ record }) => ifname === undefined || record.id.ifname === ifname);
  const [one, other] = fitting;
  if (one && !other) return one;
  const name = JSON.stringify(selector);
  // A pod whose sandbox was made again, before the DEL of the first.
  if (one && new Set(fitting.map(({ record: { id } }) => id.containerId)).size > 1) {
    const each = fitting.map(({ record: { id } }) => `${id.ifname} of container ${shortId(id.containerId)}`).join(", ");
    throw new RemoraError(code.unknownContainer, `${name} has several chains: ${each}: say which by its container id`);
  }
  const there = found.map(({ record: { id } }) => `${id.ifname} (network ${id.network})`).join(", ");
  throw new RemoraError(
    code.unknownContainer,
    one
      ? `${name} has several chains, on ${there}: say which with --ifname`
      : `${name} has no chain on interface ${ifname ?? "any"}: it has ${there || "none"}`,
  );
}

function recorded(kernel: KernelPort, bpffs: string, selector: string, choose: typeof select): Recorded[] {
  requireBpffs(kernel, bpffs);
  const chosen = choose(listAttachments(kernel, bpffs), selector);
  const found = findAttachments(kernel, bpffs).flatMap(({ pins, id }) => {
    const status = chosen.find(({ ifname }) => ifname === id.ifname);
    if (status === undefined) return [];
    const record = readAnyRecord(kernel, pins);
    const same = chosen.find((each) => each.containerId === record?.id.containerId && each.ifname === record.id.ifname);
    return record && same ? [{ status: same, record, pins }] : [];
  });
  if (found.length > 0) return found;
  throw new RemoraError(
    code.unknownContainer,
    `nothing is attached to ${JSON.stringify(selector)} any more: it is being deleted, or its DEL was interrupted and remora gc finishes it`,
  );
}
