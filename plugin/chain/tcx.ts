// SPDX-License-Identifier: Apache-2.0
/**
 * A chain on the TCX hook (Linux 6.6 and later): a bpf_link, pinned. The link belongs to who made it and not to the device, so
 * that nobody in the pod can take it away; and the kernel takes it away itself with its last reference, or with the device.
 */

import { type Fd, KernelError, type KernelPort } from "../kernel/port.ts";
import type { Hook, HookRequest } from "./hook.ts";
import type { AttachmentPins } from "./pins.ts";
import { hookAt } from "./places.ts";
import { Attempts, Handles, Undo } from "./undo.ts";

export const tcx: Hook = {
  noun: "link",
  pin: (pins, place) => pins.link(place),

  attach(kernel, pins, request, { handles, undo }) {
    const { place, program } = request;
    const link = handles.own(kernel.attachTcx({ program, ...hookAt(place, request) }));
    undo.push(() => kernel.detachLink(link));
    const path = pins.link(place);
    kernel.pin(link, path);
    undo.push(() => kernel.removePin(path));
  },

  state(kernel, path) {
    using handles = new Handles(kernel);
    const pinned = handles.openPin(path);
    if (!pinned) return { state: "missing" };
    if (pinned.kind !== "link") return { state: "foreign", kind: pinned.kind };
    const { programId, ifindex, direction } = kernel.linkInfo(pinned.fd);
    return ifindex === 0 ? { state: "detached" } : { state: "attached", programId, ifindex, direction };
  },

  update(kernel, path, program) {
    using handles = new Handles(kernel);
    kernel.updateLink(handles.own(kernel.openPin(path).fd), program);
  },

  /** The pin goes in any case: with the last reference the kernel detaches the link by itself. */
  remove(kernel, path) {
    const attempts = new Attempts();
    attempts.try(() => {
      using handles = new Handles(kernel);
      const pinned = handles.openPin(path);
      if (pinned?.kind === "link") detachLink(kernel, pinned.fd);
    });
    attempts.try(() => kernel.removePin(path));
    attempts.finish();
  },

  ahead(kernel, where, programId) {
    const all = kernel.listTcx(where);
    // Not there: the path names another namespace by now.
    return all.slice(
      0,
      Math.max(
        0,
        all.findIndex((one) => one.programId === programId),
      ),
    );
  },
};

/** The link's device or its namespace may have died, and the link with it. */
function detachLink(kernel: KernelPort, link: Fd): void {
  try {
    kernel.detachLink(link);
  } catch (error) {
    if (!(error instanceof KernelError && error.code === "ENOLINK")) throw error;
  }
}

/**
 * Puts the chain at the host's end before those who have come before it. A link keeps its place for good, so a new one
 * takes over. For a moment there are both: better that a packet meets the guard twice than not at all. A crash in
 * between leaves the new one under a name of its own, and the next settle takes it away; an error takes it away at once.
 */
export function attachFirst(kernel: KernelPort, pins: AttachmentPins, request: HookRequest): void {
  using handles = new Handles(kernel);
  const undo = new Undo();
  const old = handles.own(kernel.openPin(pins.link("host")).fd);
  try {
    const made = handles.own(kernel.attachTcx({ program: request.program, ...hookAt("host", request) }));
    undo.push(() => detachLink(kernel, made));
    kernel.pin(made, pins.nextLink);
    undo.push(() => kernel.removePin(pins.nextLink));
    kernel.renamePin(pins.nextLink, pins.link("host"));
  } catch (error) {
    undo.unwind(() => {});
    throw error;
  }
  // It has no name any more, so that it goes with the descriptor if not now.
  new Attempts().try(() => detachLink(kernel, old));
}
