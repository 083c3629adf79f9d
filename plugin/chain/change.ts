// SPDX-License-Identifier: Apache-2.0
/** A change of an attachment, as a command asks for it: locked, settled, compared, and only then done. */

import { code, RemoraError } from "../errors.ts";
import { type InterfaceInfo, KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { type Change, changesBetween } from "./changes.ts";
import { busy, lock, lockDeadlines } from "./lock.ts";
import { pinsOf } from "./pins.ts";
import type { ChainPlan } from "./plan.ts";
import { type AttachmentRecord, isSameNamespace, readRecord } from "./record.ts";
import { isAsPlanned, type ReplaceOptions, replace } from "./replace.ts";
import { settle } from "./settle.ts";

export interface Changed {
  before: AttachmentRecord;
  /** What was asked for. */
  plan: ChainPlan;
  /** Empty where nothing differs, and also where only what was attached had been tampered with. */
  changes: Change[];
  /** Undefined where nothing was done: nothing was to be done, or it was only to be said what would be. */
  after: AttachmentRecord | undefined;
  /** What was done to settle an earlier change. */
  settled: string | undefined;
}

export interface ChangeOptions extends Pick<ReplaceOptions, "report"> {
  /** Only says what would be done. */
  dryRun?: boolean;
}

/**
 * Gives an attachment another chain. Where it has the one that is asked for, nothing is touched.
 *
 * @param planFor makes the plan, from what is attached and the interface as it is now; its generation must be one more.
 * @throws RemoraError unknownContainer where there is no such attachment, tryAgainLater where somebody else is at work on it for
 *   too long, attachmentDiffers where its interface was replaced; what `planFor` and `replace` throw.
 */
export async function change(
  kernel: KernelPort,
  bpffs: string,
  id: AttachmentId,
  planFor: (record: AttachmentRecord, device: InterfaceInfo) => ChainPlan | Promise<ChainPlan>,
  { report, dryRun }: ChangeOptions = {},
): Promise<Changed> {
  const pins = pinsOf(bpffs, id);
  const locked = await lock(kernel, pins, lockDeadlines.change);
  if (locked === "busy") throw busy(pins, lockDeadlines.change);
  if (locked === "gone") throw notAttached(id);
  using held = locked;
  const settled = settle(kernel, pins);
  const before = readRecord(kernel, pins);
  if (!before) throw notAttached(id);
  const plan = await planFor(before, sameInterface(kernel, before));
  const changes = changesBetween(before, plan);
  const done = isAsPlanned(kernel, plan, before);
  const options = { ...(report && { report }), lock: held };
  const after = done || dryRun ? undefined : replace(kernel, plan, before, options);
  return { before, plan, changes, after, settled };
}

function notAttached({ containerId, ifname }: AttachmentId): RemoraError {
  return new RemoraError(
    code.unknownContainer,
    `nothing is attached to ${ifname} of container ${containerId} any more`,
  );
}

/** The interface that the chain was attached to; one of the same name that has taken its place is another. */
function sameInterface(kernel: KernelPort, record: AttachmentRecord): InterfaceInfo {
  const { netns, id, ifindex } = record;
  let device: InterfaceInfo;
  try {
    device = kernel.findInterface(netns, id.ifname);
  } catch (error) {
    if (!(error instanceof KernelError && ["ENODEV", "ENOENT", "EINVAL"].includes(error.code))) throw error;
    throw new RemoraError(code.noInterface, `interface ${id.ifname} is not in ${netns} any more: ${error.message}`, {
      cause: error,
    });
  }
  if (device.ifindex === ifindex && isSameNamespace(record.namespace, device.namespace)) return device;
  throw new RemoraError(
    code.attachmentDiffers,
    `${id.ifname} in ${netns} is another interface than the one that the chain was attached to`,
  );
}
