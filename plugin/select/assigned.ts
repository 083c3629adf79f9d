// SPDX-License-Identifier: Apache-2.0
/**
 * What a pod's interface was given, for the parameters that are filled from it.
 *
 * At ADD the plugins before us say it, and no process of the pod has run yet. Later the record of the attachment says it: the
 * pod may have given its interface other addresses since. The kernel is asked where neither does: behind a plugin that lists
 * no address, and by hand. Link-local IPv6 addresses are left out, since each interface makes its own.
 */

import type { InterfaceInfo, KernelPort } from "../kernel/port.ts";
import type { Assigned } from "../model.ts";

/** Of a prevResult, what is read here. `interface` is a place in `interfaces`. */
export interface Given {
  interfaces: { name: string; sandbox: string }[];
  ips: { address: string; interface?: number }[];
}

interface Which {
  netns: string;
  ifname: string;
}

/**
 * At ADD. The MAC is the device's own: what honest frames carry, whatever a plugin wrote down.
 *
 * @throws KernelError where the kernel has to be asked and does not answer.
 */
export function assignedAtAdd(
  kernel: Pick<KernelPort, "interfaceAddresses">,
  which: Which,
  { mac, mtu }: Pick<InterfaceInfo, "mac" | "mtu">,
  given: Given,
): Assigned {
  const addresses = addressesOf(given, which);
  return addresses.length > 0 ? { addresses, mac, mtu } : assignedNow(kernel, which, { mac, mtu });
}

/** As the kernel has it now. @throws KernelError. */
export function assignedNow(
  kernel: Pick<KernelPort, "interfaceAddresses">,
  { netns, ifname }: Which,
  { mac, mtu }: Pick<InterfaceInfo, "mac" | "mtu">,
): Assigned {
  return { addresses: kernel.interfaceAddresses(netns, ifname).filter((address) => !isLinkLocal(address)), mac, mtu };
}

/**
 * The addresses of one interface, each once. The interface is found by name and sandbox: plugins list theirs and the host's in
 * any order. An address that names no interface is the container's. Where no entry is ours and in a sandbox, those that name
 * an interface name somebody else's.
 */
function addressesOf({ interfaces, ips }: Given, { netns, ifname }: Which): string[] {
  const ours = interfaces.flatMap(({ name, sandbox }, index) =>
    name === ifname && sandbox !== "" ? [{ index, exact: sandbox === netns }] : [],
  );
  // A namespace has several paths, so another spelling than ours will do where there is no doubt.
  const own = ours.find(({ exact }) => exact) ?? (ours.length === 1 ? ours[0] : undefined);
  const addresses = ips
    .filter((ip) => ip.interface === undefined || ip.interface === own?.index)
    .map(({ address }) => address.replace(/\/.*$/, "").toLowerCase())
    .filter((address) => !isLinkLocal(address));
  return [...new Set(addresses)];
}

/** fe80::/10. */
function isLinkLocal(address: string): boolean {
  return /^fe[89ab][0-9a-f]:/i.test(address);
}
