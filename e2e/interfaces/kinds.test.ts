// SPDX-License-Identifier: Apache-2.0
/**
 * A chain on each kind of interface that plugins give pods, but veth, on which everything else is tested: ADD, packets both
 * ways, CHECK, DEL, and the words for what stands `at: host`. What a kernel lacks, it says.
 */
import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { icmp, internetChecksum, ipv4 } from "../../bpf/packets.ts";
import { run } from "../lib/scratch.ts";
import type { ChainRunner } from "../protocol/chain-runner.ts";
import { attachment, counted, type Ground, ground, ping, podNamespace, presentPlugin, refusal } from "./ground.ts";

/** Debian's kernels have them all; of others it is their builders' choice. */
const hasAll = /-cloud-amd64|Debian/.test(readFileSync("/proc/version", "utf8"));

/** Whether the kernel knows the kind of device; how one is made above `up0` is the question. */
function has({ host }: Ground, kind: string, ...how: string[]): boolean {
  const make = ["-n", host.name, "link", "add", "link", "up0", "name", "probe0", "type", kind, ...how];
  const { status, stderr } = spawnSync("ip", make, { encoding: "utf8" });
  if (status === 0) host.exec("ip", "link", "delete", "probe0");
  else assert.match(stderr, /Unknown device type/);
  return status === 0;
}

const wall = { program: "acl", directions: ["egress"], at: "host" };

/** A life with traffic; `exchange` sends this many packets there and gets as many back. */
async function live(
  it: Ground,
  network: (chain: object[]) => ChainRunner,
  pod: string,
  kind: string,
  exchange: (packets: number) => Promise<void>,
): Promise<void> {
  const where = attachment(pod);
  const { code, msg } = refusal(() => network([wall]).add(where));
  assert.is(code, 113, msg);
  assert.match(
    msg,
    new RegExp(`^pod shop/web: acl: at: host, .* eth0 is a ${kind} device: only a veth pair has an end`),
  );
  assert.equal(it.pinned(), []);
  network([wall]).del(where);

  const list = network([{ program: "count" }, { program: "acl", params: { rules: "deny udp any 9" } }]);
  const added = list.add(where);
  const before = { ingress: counted(it, "ingress"), egress: counted(it, "egress") };
  await exchange(3);
  for (const direction of ["ingress", "egress"] as const)
    assert.ok(counted(it, direction) >= before[direction] + 3, `${direction}: ${counted(it, direction)}`);
  list.check(where, added);
  list.del(where, added);
  assert.equal(it.pinned(), []);
}

for (const { kind, primary, probe, outside } of [
  { kind: "macvlan", primary: { type: "macvlan", mode: "bridge" }, probe: ["mode", "bridge"], outside: "wire0" },
  { kind: "ipvlan", primary: { type: "ipvlan", mode: "l2" }, probe: ["mode", "l2"], outside: "wire0" },
  { kind: "vlan", primary: { type: "vlan", vlanId: 5 }, probe: ["id", "5"], outside: "wire0.5" },
])
  test(`${kind}, made by the plugin of that name`, async () => {
    using it = ground();
    const peer = it.world.namespace();
    it.world.veth({ namespace: it.host, ifname: "up0" }, { namespace: peer, ifname: "wire0" });
    if (!has(it, kind, ...probe)) {
      assert.not(hasAll, `this kernel should have ${kind}`);
      console.log(`this kernel has no ${kind} devices: not tried here, but on Linux 6.12 by npm run test:kernels`);
      return;
    }
    if (outside !== "wire0") {
      peer.exec("ip", "link", "add", "link", "wire0", "name", outside, "type", "vlan", "id", "5");
      peer.exec("ip", "link", "set", outside, "up");
    }
    peer.exec("ip", "address", "add", "10.93.0.1/24", "dev", outside);
    const pod = podNamespace(it);
    const ipam = { type: "static", addresses: [{ address: "10.93.0.2/24" }] };
    const network = (chain: object[]) => it.network({ ...primary, master: "up0", ipam }, { chain });
    await live(it, network, pod.path, kind, async (packets) => {
      assert.ok(ping(pod, "10.93.0.1", packets));
    });
  });

test("tun, which has no Ethernet header", async () => {
  using it = ground();
  const pod = podNamespace(it);
  const helper = join(it.world.dir, "tun");
  run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, resolve(import.meta.dirname, "../../bpf/fixtures/tun.c"));
  const tun = spawn("ip", ["netns", "exec", pod.name, helper, "eth0"], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    let said = "";
    tun.stdout.on("data", (data) => {
      said += data;
    });
    const until = async (done: () => boolean) => {
      for (let round = 0; !done() && round < 400; round++) await sleep(25);
      assert.ok(done(), said);
    };
    await until(() => said.includes("ready"));
    pod.exec("ip", "address", "add", "10.95.0.1/24", "dev", "eth0");
    pod.exec("ip", "link", "set", "eth0", "up");
    const primary = presentPlugin(it, { interfaces: [{ name: "eth0", sandbox: pod.path }], ips: [] });
    await live(
      it,
      (chain) => it.network(primary, { chain }),
      pod.path,
      "tun",
      async (packets) => {
        const replies = () => said.split("\n").filter((packet) => /^45.{38}00/.test(packet)).length;
        const before = replies();
        for (let sent = 0; sent < packets; sent++) tun.stdin.write(`${echoRequest("10.95.0.2", "10.95.0.1")}\n`);
        await until(() => replies() === before + packets);
      },
    );
  } finally {
    tun.stdin.end();
  }
});

/** In hexadecimal, with a checksum that the kernel takes. */
function echoRequest(source: string, destination: string): string {
  const { bytes } = ipv4({ source, destination }, icmp());
  bytes.writeUInt16BE(internetChecksum(bytes.subarray(20)), 22);
  return bytes.toString("hex");
}

test.run();
