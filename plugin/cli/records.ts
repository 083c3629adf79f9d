// SPDX-License-Identifier: Apache-2.0
/** The records of the pod that a person named: what its chains are made of, and where they are pinned. */

import { type Found, findAttachments } from "../chain/attachments.ts";
import { requireBpffs } from "../chain/bpffs.ts";
import { type AttachmentPins, attachmentName, pinsOf } from "../chain/pins.ts";
import { type AttachmentRecord, readAnyRecord } from "../chain/record.ts";
import { listAttachments } from "../chain/status.ts";
import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import type { AttachmentId, AttachmentStatus } from "../model.ts";
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
  const found = recorded(kernel, bpffs, selector, selectToChange);
  return theOne(
    found.map((each) => ({ ...each, id: each.record.id })),
    selector,
    ifname,
  );
}

/** The one that is to be detached, which takes no record that could be read. @throws as `recordToChange`. */
export function idToDetach(
  kernel: KernelPort,
  bpffs: string,
  selector: string,
  ifname: string | undefined,
): AttachmentId {
  const found = foldersOf(kernel, bpffs, selector, selectToChange).flatMap(({ id, pins }) => {
    try {
      const record = readAnyRecord(kernel, pins);
      return record ? [{ id: record.id }] : [];
    } catch (error) {
      // Damaged, or another version's. A container id that was too long for a folder's name only the record has whole.
      if (!(error instanceof RemoraError) || pinsOf(bpffs, id).directory !== pins.directory) throw error;
      return [{ id }];
    }
  });
  return theOne(requireSome(found, selector), selector, ifname).id;
}

function theOne<T extends { id: AttachmentId }>(found: T[], selector: string, ifname: string | undefined): T {
  const fitting = found.filter(({ id }) => ifname === undefined || id.ifname === ifname);
  const [one, other] = fitting;
  if (one && !other) return one;
  const name = JSON.stringify(selector);
  // A pod whose sandbox was made again, before the DEL of the first.
  if (one && new Set(fitting.map(({ id }) => id.containerId)).size > 1) {
    const each = fitting.map(({ id }) => `${id.ifname} of container ${shortId(id.containerId)}`).join(", ");
    throw new RemoraError(code.unknownContainer, `${name} has several chains: ${each}: say which by its container id`);
  }
  const there = found.map(({ id }) => `${id.ifname} (network ${id.network})`).join(", ");
  throw new RemoraError(
    code.unknownContainer,
    one
      ? `${name} has several chains, on ${there}: say which with --ifname`
      : `${name} has no chain on interface ${ifname ?? "any"}: it has ${there || "none"}`,
  );
}

function recorded(kernel: KernelPort, bpffs: string, selector: string, choose: typeof select): Recorded[] {
  const found = foldersOf(kernel, bpffs, selector, choose).flatMap(({ status, pins }) => {
    const record = readAnyRecord(kernel, pins);
    return record ? [{ status, record, pins }] : [];
  });
  return requireSome(found, selector);
}

/** The folders of the one that was named. Nobody else's record is read: one that cannot be must not keep the others from theirs. */
function foldersOf(
  kernel: KernelPort,
  bpffs: string,
  selector: string,
  choose: typeof select,
): (Found & { status: AttachmentStatus })[] {
  requireBpffs(kernel, bpffs);
  const chosen = choose(listAttachments(kernel, bpffs), selector);
  return findAttachments(kernel, bpffs).flatMap((found) => {
    const name = attachmentName(found.id);
    const status = chosen.find(
      (each) => found.pins.directory.endsWith(`/${attachmentName(each)}`) || attachmentName(each) === name,
    );
    return status ? [{ ...found, status }] : [];
  });
}

function requireSome<T>(found: T[], selector: string): T[] {
  if (found.length > 0) return found;
  throw new RemoraError(
    code.unknownContainer,
    `nothing is attached to ${JSON.stringify(selector)} any more: it is being deleted, or its DEL was interrupted and remora gc finishes it`,
  );
}
