// SPDX-License-Identifier: Apache-2.0
/**
 * CHECK: what is attached against what ADD recorded (see chain/check.ts). Only where there is neither folder nor record does
 * the request itself decide, with the configuration and annotations that CNI says are those of the ADD: an ADD that was
 * asked for nothing leaves nothing, and that is as it should be. So a pod without programs fails its CHECK once the node's
 * chain has grown: nothing tells that it was attached before. That is a true answer as well, since the node's chain is meant
 * for every pod; an ADD of the pod, or a new pod, mends it.
 */

import { check as checkAttachment } from "../chain/check.ts";
import { busy, lock, lockDeadlines } from "../chain/lock.ts";
import { pinsOf } from "../chain/pins.ts";
import type { AttachmentRecord } from "../chain/record.ts";
import { settle } from "../chain/settle.ts";
import type { CheckRequest } from "../cni/request.ts";
import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import type { Context } from "./context.ts";

/**
 * @throws RemoraError attachmentDiffers with the first difference; tryAgainLater where somebody is at work on the
 *   attachment for too long.
 */
export async function check({ kernel }: Context, request: CheckRequest): Promise<void> {
  const { config, netns, pod, annotations } = request;
  const id = { network: config.network, containerId: request.containerId, ifname: request.ifname };
  if (await checkWhenFree(kernel, config.bpffs, id, netns)) return;
  const [{ openCatalog }, { select }] = await Promise.all([
    import("../catalog/catalog.ts"),
    import("../select/select.ts"),
  ]);
  const { selected } = select({ config, annotations, pod, catalog: await openCatalog(config.programDirs, kernel) });
  if (selected.length === 0) return;
  throw new RemoraError(
    code.attachmentDiffers,
    `nothing is attached: ${pinsOf(config.bpffs, id).directory} is not there, and ` +
      `${selected.map(({ program }) => program.name).join(", ")} should be attached to ${id.ifname}`,
  );
}

/** What an interrupted change has left is settled first: it is no difference. */
async function checkWhenFree(
  kernel: KernelPort,
  bpffs: string,
  id: AttachmentId,
  netns: string,
): Promise<AttachmentRecord | undefined> {
  const pins = pinsOf(bpffs, id);
  const locked = await lock(kernel, pins, lockDeadlines.check);
  if (locked === "busy") throw busy(pins, lockDeadlines.check);
  if (locked === "gone") return checkAttachment(kernel, bpffs, id, netns);
  using _ = locked;
  settle(kernel, pins);
  return checkAttachment(kernel, bpffs, id, netns);
}
