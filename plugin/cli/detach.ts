// SPDX-License-Identifier: Apache-2.0
/** `remora detach`: takes a chain away by hand. */

import { resolve } from "node:path";
import { findAttachments } from "../chain/attachments.ts";
import { requireBpffs } from "../chain/bpffs.ts";
import { detachWhenFree } from "../chain/detach.ts";
import { isSameNamespace, readAnyRecord } from "../chain/record.ts";
import { code, RemoraError } from "../errors.ts";
import { KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { manualNetwork } from "./attach.ts";
import { type Command, UsageError } from "./command.ts";
import { idToDetach } from "./records.ts";
import { printable, shortId } from "./terminal.ts";

export const command: Command = {
  operands: "[POD or CONTAINER]",
  maxOperands: 1,
  options: {
    netns: { type: "string", value: "PATH", help: "the network namespace, instead of a container" },
    ifname: { type: "string", value: "NAME", help: "the interface in it" },
  },
  help: `
Takes a chain away: its links, programs and maps. Named is the pod (its name, namespace/name, its
container id, or at least 4 characters of its beginning), or the network namespace and the
interface. Meant for chains that were attached by hand; one that a container runtime has asked for
goes away as well, and that container's next CHECK says that it is missing.

--json prints {"network","containerId","ifname"}.`,
  async run({ args, io, tools, json, bpffs }) {
    const [container] = args.positionals;
    const netns = args.text("netns");
    const ifname = args.text("ifname");
    if ((container === undefined) === (netns === undefined))
      throw new UsageError("from what? Give a container, or --netns PATH --ifname NAME");
    if (netns !== undefined && ifname === undefined) throw new UsageError("which interface? Say --ifname NAME");
    const kernel = await tools.kernel();
    requireBpffs(kernel, bpffs);
    const id =
      container !== undefined
        ? idToDetach(kernel, bpffs, container, ifname)
        : attachedTo(kernel, bpffs, resolve(netns ?? ""), ifname ?? "");
    await detachWhenFree(kernel, bpffs, id);
    io.stdout(
      json
        ? `${JSON.stringify(id)}\n`
        : `Detached from ${printable(id.ifname)} of container ${printable(shortId(id.containerId))}.\n`,
    );
    return 0;
  },
};

/** By the namespace itself, whatever path it had then. One made by hand goes before one of a runtime's. */
function attachedTo(kernel: KernelPort, bpffs: string, netns: string, ifname: string): AttachmentId {
  const identity = kernel.namespaceIdentity(netns);
  if (!identity) throw new RemoraError(code.noInterface, `${netns} names no network namespace`);
  // One whose record cannot be read must not keep the others where they are; whose it is, nobody knows.
  const unread: string[] = [];
  const found = findAttachments(kernel, bpffs).flatMap(({ id, pins }) => {
    try {
      const record = readAnyRecord(kernel, pins);
      const same = record && isSameNamespace(record.namespace, identity) && record.id.ifname === ifname;
      return same ? [record.id] : [];
    } catch (error) {
      if (!(error instanceof RemoraError || error instanceof KernelError)) throw error;
      unread.push(`${id.containerId} (${error.message})`);
      return [];
    }
  });
  const [id] = [...found.filter(({ network }) => network === manualNetwork), ...found];
  if (id) return id;
  const unknown = unread.length > 0 ? `; not to be read is the record of ${unread.join(", ")}` : "";
  throw new RemoraError(code.unknownContainer, `no chain is attached to ${ifname} in ${netns}${unknown}`);
}
