// SPDX-License-Identifier: Apache-2.0
/**
 * CHECK: what is attached against what ADD recorded (see chain/check.ts). Only where there is neither folder nor record does
 * the request itself decide, with the configuration and annotations that CNI says are those of the ADD: an ADD that was
 * asked for nothing leaves nothing, and that is as it should be.
 */

import { check as checkAttachment } from "../chain/check.ts";
import { pinsOf } from "../chain/pins.ts";
import type { CheckRequest } from "../cni/request.ts";
import { code, RemoraError } from "../errors.ts";
import type { Context } from "./context.ts";

/** @throws RemoraError attachmentDiffers with the first difference. */
export async function check({ kernel }: Context, request: CheckRequest): Promise<void> {
  const { config, netns, pod, annotations } = request;
  const id = { network: config.network, containerId: request.containerId, ifname: request.ifname };
  if (checkAttachment(kernel, config.bpffs, id, netns)) return;
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
