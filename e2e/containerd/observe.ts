// SPDX-License-Identifier: Apache-2.0
/** What the tests of this folder look at, on a node and in its kernel. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Direction } from "../../plugin/kernel/port.ts";
import type { AttachmentStatus, StatusEntry } from "../../plugin/model.ts";
import type { Ground } from "./ground.ts";
import type { Pod } from "./pod.ts";

/** The pod's one attachment. */
export function attachment(node: Ground, pod: Pick<Pod, "id" | "name">): AttachmentStatus {
  const found = node.status().filter(({ containerId }) => containerId === pod.id);
  if (found.length !== 1) throw new Error(`pod ${pod.name} has ${found.length} attachments`);
  return found[0] as AttachmentStatus;
}

/** The pod's one entry of that program. */
export function entry(node: Ground, pod: Pick<Pod, "id" | "name">, direction: Direction, program: string): StatusEntry {
  const found = attachment(node, pod)[direction].filter((each) => each.program === program);
  if (found.length !== 1) throw new Error(`${pod.name} has ${found.length} entries of ${program} on ${direction}`);
  return found[0] as StatusEntry;
}

export const names = (entries: StatusEntry[]): string[] => entries.map(({ program }) => program);

/** Whatever is pinned for containers: below the root, each network has a folder. */
export function pins(node: Ground): string[] {
  const { stdout } = node.exec("find", join(node.bpffs, "remora"), "-mindepth", "2");
  return stdout.split("\n").filter((line) => line !== "");
}

/** Host ends of pods' interfaces, and leases of their addresses. */
export function remains(node: Ground): string[] {
  const links = JSON.parse(node.exec("ip", "-json", "link").stdout) as { ifname: string }[];
  const leases = node.exec("find", "/var/lib/cni/networks", "-name", "10.77.*").stdout.split("\n");
  return [
    ...pins(node),
    ...links.map(({ ifname }) => ifname).filter((ifname) => ifname.startsWith("veth")),
    ...leases.filter((line) => line !== ""),
  ];
}

/** Asks until it holds; packets take their time. The deadline only bounds a failure, which is `check`'s last one. */
export async function eventually(check: () => void | Promise<void>): Promise<void> {
  for (const deadline = Date.now() + 5_000; ; await sleep(50))
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
}
