// SPDX-License-Identifier: Apache-2.0
/**
 * DEL: takes the chain away by its pins; neither the namespace nor the previous result is needed. It waits for whoever
 * is at work on the attachment, but not for long, and then goes on all the same (chain/lock.ts).
 *
 * It does not fail for what a collection can finish. A runtime that is told of an error tries again for a minute, and
 * meanwhile does not tear down the plugins listed before this one, so that the pod's address stays taken. What could not be
 * removed is logged; the kernel detaches the links itself when the namespace goes, and GC or `remora gc` removes the rest.
 */

import { detachWhenFree } from "../chain/detach.ts";
import { messageOf } from "../chain/undo.ts";
import type { DelRequest } from "../cni/request.ts";
import { KernelError } from "../kernel/port.ts";
import type { Context } from "./context.ts";

/** @throws only for a bug, or a `bpffs` that is no path. */
export async function del({ kernel, log }: Context, { config, containerId, ifname }: DelRequest): Promise<void> {
  const id = { network: config.network, containerId, ifname };
  try {
    const found = await detachWhenFree(kernel, config.bpffs, id);
    log.debug(found ? "detached" : "nothing to detach", id);
  } catch (error) {
    const errors: unknown[] = error instanceof AggregateError ? error.errors : [error];
    if (!errors.every((one) => one instanceof KernelError)) throw error;
    log.error(`not everything could be removed, remora gc will: ${messageOf(error)}`, id);
  }
}
