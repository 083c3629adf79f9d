// SPDX-License-Identifier: Apache-2.0
/**
 * Where the chains of an attachment stand: one chain per place. The egress side of a program that stands `at: host` runs at
 * the ingress hook of the host's end of the pair, where what the pod sends arrives, however it was sent.
 */

import { code, RemoraError } from "../errors.ts";
import { type AttachRequest, type Direction, directions, KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId, Selected } from "../model.ts";

/** `ingress` and `egress`: of the pod's interface. `host`: the host's end of its pair. */
export type ChainPlace = Direction | "host";
/** On egress a packet meets the pod's chain first. */
export const chainPlaces = [...directions, "host"] as const satisfies readonly ChainPlace[];

/** The host's end of a pair, in the plugin's own network namespace. */
export interface HostEnd {
  ifindex: number;
  ifname: string;
}

/** Which side of the programs stands there. */
export function directionAt(place: ChainPlace): Direction {
  return place === "host" ? "egress" : place;
}

/** The place of one side of a program. */
export function placeOf(direction: Direction, { at }: Pick<Selected, "at">): ChainPlace {
  return at === "host" && direction === "egress" ? "host" : direction;
}

/** Whether one of these programs stands at the host's end. */
export function needsHostEnd(selected: Pick<Selected, "at" | "directions">[]): boolean {
  return selected.some((one) => one.directions.some((direction) => placeOf(direction, one) === "host"));
}

/**
 * The host's end of the pod's interface, where a program needs it.
 *
 * @throws RemoraError unsupported where the interface has none that a chain could stand at; KernelError.
 */
export function findHostEnd(
  kernel: KernelPort,
  { netns, ifname, selected }: { netns: string; ifname: string; selected: Selected[] },
): HostEnd | undefined {
  if (!needsHostEnd(selected)) return undefined;
  try {
    const { ifindex, ifname: name } = kernel.findPeer(netns, ifname);
    return { ifindex, ifname: name };
  } catch (error) {
    if (!(error instanceof KernelError && error.code === "EREFUSED")) throw error;
    throw noHostEnd(selected, error.message, error);
  }
}

/**
 * Whether the host's end is the one that a chain was attached to: indices are used again, and a command may run in another
 * namespace than the ADD did.
 *
 * @param netns where the pod's interface is today.
 * @throws RemoraError attachmentDiffers; KernelError.
 */
export function requireHostEnd(
  kernel: KernelPort,
  { id, host }: { id: AttachmentId; host?: HostEnd },
  netns: string,
): void {
  const differs = (words: string, cause?: unknown): RemoraError =>
    new RemoraError(code.attachmentDiffers, `the host's end of ${id.ifname} (${host?.ifname}) ${words}`, { cause });
  let found: HostEnd;
  try {
    found = kernel.findPeer(netns, id.ifname);
  } catch (error) {
    if (!(error instanceof KernelError && error.code === "EREFUSED")) throw error;
    throw differs(`is not there any more: ${error.message}`, error);
  }
  if (found.ifindex !== host?.ifindex)
    throw differs(
      `is ${found.ifname}, index ${found.ifindex}, by now: the chain was attached to index ${host?.ifindex}`,
    );
}

/**
 * At the host's end a chain stands before everybody else, and that is what only TCX can promise.
 * @param why there is no TCX here.
 * @throws RemoraError unsupported where a program would stand there.
 */
export function requireTcxAtHost(selected: Selected[], why: string): void {
  const names = selected.filter((one) => needsHostEnd([one])).map(({ program }) => program.name);
  if (names.length === 0) return;
  throw new RemoraError(
    code.unsupported,
    `${names.join(", ")}: at: host takes TCX, to stand before everybody else, and ${why}. It is not moved into the pod, ` +
      "where a process with CAP_NET_RAW could send past it. Use at: pod, or leave it out",
  );
}

/** What is said of programs that would stand at a host's end that is not there. */
export function noHostEnd(selected: Selected[], why: string, cause?: unknown): RemoraError {
  const names = selected.filter((one) => needsHostEnd([one])).map(({ program }) => program.name);
  return new RemoraError(
    code.unsupported,
    `${names.join(", ")}: at: host, and there is no host's end for the egress side to stand at: ${why}. ` +
      "It is not moved into the pod, where a process with CAP_NET_RAW could send past it. Use at: pod, or leave it out",
    { cause },
  );
}

/** The hook of a place, as it is attached to. */
export function hookAt(
  place: ChainPlace,
  { netns, ifindex, host }: { netns: string; ifindex: number; host: HostEnd | undefined },
): Omit<AttachRequest, "program"> {
  if (place !== "host") return { netns, ifindex, direction: place };
  if (!host) throw new Error("a chain at the host's end, and no host's end");
  return { netns: undefined, ifindex: host.ifindex, direction: "ingress", before: true };
}
