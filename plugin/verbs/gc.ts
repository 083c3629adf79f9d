// SPDX-License-Identifier: Apache-2.0
/** GC: removes the attachments of this network that the runtime does not count among the valid ones. */

import { collectNetwork } from "../chain/collect.ts";
import { joinErrors } from "../chain/explain.ts";
import type { GcRequest } from "../cni/request.ts";
import type { Context } from "./context.ts";

/** @throws RemoraError that joins what failed; all the rest was removed. */
export async function gc({ kernel, log }: Context, { config, validAttachments }: GcRequest): Promise<void> {
  const { removed, failed } = await collectNetwork(kernel, config.bpffs, config.network, validAttachments);
  for (const { reason, ...id } of removed) log.info(`collected: ${reason}`, id);
  if (failed.length > 0) throw joinErrors(failed.map(({ error }) => error));
}
