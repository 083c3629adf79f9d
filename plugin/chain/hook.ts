// SPDX-License-Identifier: Apache-2.0
/**
 * How a chain hangs on its device: what every such way can do. One file for each, of the same shape; what stands in the
 * attachment's folder (a pin for each place) says which one it is.
 */

import {
  type Direction,
  type Fd,
  type HookPlace,
  KernelError,
  type KernelPort,
  type TcxProgram,
} from "../kernel/port.ts";
import type { HookName, NodeConfig } from "../model.ts";
import { clsact } from "./clsact.ts";
import type { AttachmentPins } from "./pins.ts";
import type { ChainPlace, HostEnd } from "./places.ts";
import type { RecordedNamespace } from "./record.ts";
import { tcx } from "./tcx.ts";
import type { Handles, Undo } from "./undo.ts";

/**
 * What became of the chain of a place. `missing`: nothing is pinned. `foreign`: what is pinned is not ours. `detached`: its
 * interface is gone. `removed`: the interface is there, and
 * somebody has taken the chain off it. `unseen`: its namespace cannot be reached from here, and nobody knows.
 */
export type HookState =
  | { state: "attached"; programId: number; ifindex: number; direction: Direction | null }
  | { state: "missing" }
  | { state: "detached" }
  | { state: "removed" }
  | { state: "unseen" }
  | { state: "foreign"; kind: string };

export interface HookRequest {
  place: ChainPlace;
  /** The chain's first stage. */
  program: Fd;
  programId: number;
  /** Of the pod's interface. */
  netns: string;
  ifindex: number;
  host: HostEnd | undefined;
  namespace: RecordedNamespace;
}

export interface Hook {
  /** What is pinned there, for people. */
  noun: string;
  pin(pins: AttachmentPins, place: ChainPlace): string;
  /** Attaches and pins. What was done before an error is taken back by `undo`, which needs `handles`. */
  attach(
    kernel: KernelPort,
    pins: AttachmentPins,
    request: HookRequest,
    { handles, undo }: { handles: Handles; undo: Undo },
  ): void;
  /** Of what is pinned at this path. */
  state(kernel: KernelPort, path: string): HookState;
  /** Gives it another program, in one step. */
  update(kernel: KernelPort, path: string, program: Fd): void;
  /** Takes it away, with its pin. Nothing there is well. */
  remove(kernel: KernelPort, path: string): void;
  /** The programs that packets meet before this one, in order; ours among them. */
  ahead(kernel: KernelPort, where: HookPlace, programId: number): TcxProgram[];
}

export const hooks: Record<HookName, Hook> = { tcx, clsact };
const all = Object.values(hooks);

/** What became of the chain of a place, however it hangs there. */
export function hookState(kernel: KernelPort, pins: AttachmentPins, place: ChainPlace): HookState {
  for (const hook of all) {
    const found = hook.state(kernel, hook.pin(pins, place));
    if (found.state !== "missing") return found;
  }
  return { state: "missing" };
}

/** Takes the chain of a place off its device, however it hangs there. */
export function unhook(kernel: KernelPort, pins: AttachmentPins, place: ChainPlace): void {
  for (const hook of all) hook.remove(kernel, hook.pin(pins, place));
}

/** The loopback device of every network namespace (LOOPBACK_IFINDEX). */
const loopback = 1;

/**
 * Which hook a chain is attached to. `auto` takes TCX where the kernel has it, else clsact.
 * @returns the choice, and why, for the log.
 */
export function chooseHook(kernel: KernelPort, asked: NodeConfig["hook"]): { hook: HookName; why: string } {
  if (asked !== "auto") return { hook: asked, why: `hook is ${JSON.stringify(asked)}` };
  try {
    kernel.listTcx({ netns: undefined, ifindex: loopback, direction: "ingress" });
  } catch (error) {
    if (error instanceof KernelError && error.code === "EINVAL")
      return { hook: "clsact", why: "this kernel has no TCX, which came with Linux 6.6" };
    // Whatever else it is, attaching will meet it as well, and say so.
  }
  return { hook: "tcx", why: "this kernel has TCX" };
}
