// SPDX-License-Identifier: Apache-2.0
/** Whether chains stand behind programs of others: these see packets first, and can keep them from the chain. */

import { listAttachments } from "../../chain/status.ts";
import { KernelError, type KernelPort } from "../../kernel/port.ts";
import type { AttachmentStatus } from "../../model.ts";
import { ownerOf } from "../selector.ts";
import type { Check } from "./check.ts";

/** A note for each place of a chain; nothing where all is well, and where there is no bpffs to look into. */
export function checkOrder(kernel: KernelPort, bpffs: string): Check[] {
  let attachments: AttachmentStatus[];
  try {
    attachments = kernel.isBpffs(bpffs) ? listAttachments(kernel, bpffs) : [];
  } catch (error) {
    if (error instanceof KernelError) return [];
    throw error;
  }
  return attachments.flatMap((attachment) =>
    (attachment.behind ?? []).map(({ direction, at, programs }): Check => {
      const end = at === "host" ? " at the host's end" : "";
      return {
        check: "program order",
        state: "note",
        found: `${ownerOf(attachment)} ${attachment.ifname}: ${programs.join(", ")} before the ${direction} chain${end}`,
        remedy:
          at === "host"
            ? "remora apply puts the chain first again; find out who attaches before it (bpftool net, bpftool prog)"
            : "nothing, where that program is meant to be first and lets packets go on; else attach it after the chain",
      };
    }),
  );
}
