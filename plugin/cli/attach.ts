// SPDX-License-Identifier: Apache-2.0
/** `remora attach`: a chain by hand, on any interface of any network namespace. */

import { resolve } from "node:path";
import { attach } from "../chain/attach.ts";
import { findAttachments } from "../chain/attachments.ts";
import { requireBpffs } from "../chain/bpffs.ts";
import { chooseHook } from "../chain/hook.ts";
import { claim, lockDeadlines } from "../chain/lock.ts";
import { pinsOf } from "../chain/pins.ts";
import { findHostEnd } from "../chain/places.ts";
import { plan, plannedPlaces } from "../chain/plan.ts";
import { readRecord } from "../chain/record.ts";
import { messageOf } from "../chain/undo.ts";
import { code, RemoraError } from "../errors.ts";
import { type InterfaceInfo, KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId, NodeConfig } from "../model.ts";
import { assignedNow } from "../select/assigned.ts";
import { choose, givenDirs, programHelp, programOptions, readWishes } from "./chosen.ts";
import { type Command, UsageError } from "./command.ts";
import { standardDirs } from "./directories.ts";
import { printable, shortId } from "./terminal.ts";

/** The network that attachments made by hand belong to; no CNI GC speaks for it. */
export const manualNetwork = "manual";

export const command: Command = {
  operands: "",
  maxOperands: 0,
  options: {
    netns: { type: "string", value: "PATH", help: "the network namespace, such as /proc/PID/ns/net" },
    ifname: { type: "string", value: "NAME", help: "the interface in it" },
    container: { type: "string", value: "ID", help: "whose it is (default netns-INODE)" },
    hook: { type: "string", value: "HOOK", help: "auto, tcx or clsact (default auto: TCX where the kernel has it)" },
    ...programOptions,
  },
  help: `
Attaches a chain to an interface by hand, also to a pod that was there before Remora. The interface
may be of any kind, in any network namespace; what else hangs on it stays. status, apply, maps, gc
and detach then know it by its container id.

${programHelp}
Looked in are the directories given with --dir, else /etc/remora/programs and behind it the library
that came with this executable.

--json prints {"network","containerId","ifname","netns"}.`,
  async run({ args, io, tools, json, bpffs }) {
    const netns = args.text("netns");
    const ifname = args.text("ifname");
    if (netns === undefined || ifname === undefined)
      throw new UsageError("to what? Say --netns PATH --ifname NAME --programs LIST");
    const hook = hookNamed(args.text("hook"));
    const wishes = readWishes(args);
    const dirs = givenDirs(args);
    const programDirs = dirs.length > 0 ? dirs : standardDirs(io.executable);
    const kernel = await tools.kernel();
    requireBpffs(kernel, bpffs);
    const path = resolve(netns);
    const device = findDevice(kernel, path, ifname);
    const containerId = args.text("container") ?? `netns-${device.namespace.ino}`;
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(containerId))
      throw new UsageError(`--container ${containerId}: letters, digits, "_", "." and "-" make a container id`);
    const id = { network: manualNetwork, containerId, ifname };
    refuseSecondOf(kernel, bpffs, id);
    const assigned = assignedNow(kernel, { netns: path, ifname }, device);
    const selected = await choose(kernel, programDirs, wishes, { assigned });
    const chain = plan({
      id,
      netns: path,
      interface: device,
      host: findHostEnd(kernel, { netns: path, ifname, selected }),
      assigned,
      pod: null,
      hook: chooseHook(kernel, hook).hook,
      config: { bpffs, failurePolicy: "closed", hook, programDirs },
      selected,
      missing: [],
    });
    if (plannedPlaces(chain).length === 0) throw new UsageError("--programs lists none");
    const pins = pinsOf(bpffs, id);
    using lock = await claim(kernel, pins, lockDeadlines.change);
    if (readRecord(kernel, pins))
      throw new RemoraError(
        code.tryAgainLater,
        `a chain is attached to ${ifname} of ${containerId} already: change it with remora apply, or detach it first`,
      );
    attach(kernel, chain, (error) => io.stderr(`remora attach: ${printable(messageOf(error))}\n`), lock);
    io.stdout(
      json
        ? `${JSON.stringify({ ...id, netns: path })}\n`
        : `Attached to ${printable(ifname)} in ${printable(path)}, as container ${printable(shortId(containerId))}.\n`,
    );
    return 0;
  },
};

function hookNamed(text = "auto"): NodeConfig["hook"] {
  const hook = (["auto", "tcx", "clsact"] as const).find((one) => one === text);
  if (hook === undefined) throw new UsageError(`--hook ${text}: it is auto, tcx or clsact`);
  return hook;
}

/** A container's interface is named by its id and the interface's name, in every command: one network has it. */
function refuseSecondOf(kernel: KernelPort, bpffs: string, { network, containerId, ifname }: AttachmentId): void {
  const other = findAttachments(kernel, bpffs).find(
    ({ id }) => id.containerId === containerId && id.ifname === ifname && id.network !== network,
  );
  if (other)
    throw new RemoraError(
      code.tryAgainLater,
      `${ifname} of container ${containerId} has a chain already, of network ${other.id.network}: change it with ` +
        "remora apply, or give another --container",
    );
}

function findDevice(kernel: KernelPort, netns: string, ifname: string): InterfaceInfo {
  try {
    return kernel.findInterface(netns, ifname);
  } catch (error) {
    if (!(error instanceof KernelError && ["ENODEV", "ENOENT", "EINVAL"].includes(error.code))) throw error;
    const reason =
      error.code === "ENODEV" ? `there is no interface ${ifname} in ${netns}` : `${netns} names no network namespace`;
    throw new RemoraError(code.noInterface, reason, { cause: error });
  }
}
