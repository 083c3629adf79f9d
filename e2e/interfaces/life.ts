// SPDX-License-Identifier: Apache-2.0
/** A chain's life on an interface of some kind, with packets both ways, and why nothing of it can stand `at: host`. */
import { spawnSync } from "node:child_process";
import * as assert from "uvu/assert";
import { listAttachments } from "../../plugin/chain/status.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { KernelError } from "../../plugin/kernel/port.ts";
import type { ChainRunner } from "../protocol/chain-runner.ts";
import { attachment, type Ground, ground, ping, podNamespace } from "./ground.ts";

const kernel = createNativeKernel();

/** A life with traffic; `exchange` sends this many packets there and gets as many back. */
export async function live(
  it: Ground,
  network: (chain: object[]) => ChainRunner,
  pod: string,
  kind: string,
  exchange: (packets: number) => Promise<void>,
): Promise<void> {
  const where = attachment(pod);
  const list = network([{ program: "count" }, { program: "acl", params: { rules: "deny udp any 9" } }]);
  const added = list.add(where);
  await exchange(10);
  const [status] = listAttachments(kernel, it.bpffs);
  // The kernel's own, such as ARP, count as well.
  for (const direction of ["ingress", "egress"] as const)
    assert.ok((status?.[direction][0]?.packets ?? 0) >= 10, JSON.stringify(status));
  try {
    kernel.findPeer(pod, "eth0");
    assert.unreachable("it has an end at the host");
  } catch (error) {
    const words = `eth0 is a ${kind} device: only a veth pair has an end at the host`;
    assert.ok(error instanceof KernelError && error.message.includes(words), `${error}`);
  }
  list.check(where, added);
  list.del(where, added);
  assert.equal(it.pinned(), []);
}

/**
 * The same on an interface that a plugin makes above one of the host's, `up0`. False where the kernel knows no such device.
 *
 * @param primary the plugin, of the kind's name.
 * @param options what `ip link add` wants to know of the kind.
 * @param outside where the peer at the other end of the wire speaks: `wire0`, or a device above it.
 */
export async function liveAbove(
  primary: { type: string } & Record<string, unknown>,
  options: string[],
  outside = "wire0",
): Promise<boolean> {
  using it = ground();
  const kind = primary.type;
  const peer = it.world.namespace();
  it.world.veth({ namespace: it.host, ifname: "up0" }, { namespace: peer, ifname: "wire0" });
  const make = ["-n", peer.name, "link", "add", "link", "wire0", "name", outside === "wire0" ? "probe0" : outside];
  const { status, stderr } = spawnSync("ip", [...make, "type", kind, ...options], { encoding: "utf8" });
  if (status !== 0) {
    assert.match(stderr, /Unknown device type/);
    return false;
  }
  if (outside === "wire0") peer.exec("ip", "link", "delete", "probe0");
  peer.exec("ip", "address", "add", "10.93.0.1/24", "dev", outside);
  peer.exec("ip", "link", "set", outside, "up");
  const pod = podNamespace(it);
  const ipam = { type: "static", addresses: [{ address: "10.93.0.2/24" }] };
  const network = (chain: object[]) => it.network({ ...primary, master: "up0", ipam }, { chain });
  await live(it, network, pod.path, kind, async (packets) => {
    assert.ok(ping(pod, "10.93.0.1", packets));
  });
  return true;
}
