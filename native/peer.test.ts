// SPDX-License-Identifier: Apache-2.0
/** The host's end of a pod's interface on this machine's kernel: how it is found, and what attaches there. */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Namespace, run, scratch } from "../e2e/lib/scratch.ts";
import { KernelError } from "../plugin/kernel/port.ts";
import { Chain, fixture, kernel, u32, verdict } from "./chain.ts";

type World = ReturnType<typeof scratch>;

let hostEnd = "";
let counter = 0;
const link = (...words: string[]): string => run("ip", "link", ...words);

/** A name of its own for each: a namespace takes its devices along a little after it has gone. */
function newHostEnd(): string {
  hostEnd = `rmr${process.pid}-${++counter}`;
  return hostEnd;
}

/** A pod whose `eth0` has its other end in this process' own namespace; that goes with the pod's. */
function pod(world: World): Namespace {
  const netns = world.namespace();
  link("add", newHostEnd(), "type", "veth", "peer", "eth0", "netns", netns.name);
  link("set", hostEnd, "up");
  netns.exec("ip", "link", "set", "eth0", "up");
  netns.exec("ip", "address", "add", "10.97.0.2/24", "dev", "eth0");
  netns.exec("ip", "neigh", "replace", "10.97.0.1", "lladdr", "02:00:00:00:00:99", "dev", "eth0");
  return netns;
}

function failure(act: () => unknown): KernelError {
  try {
    act();
  } catch (error) {
    if (error instanceof KernelError) return error;
    throw error;
  }
  throw new Error("nothing failed");
}
const refusal = (netns: Namespace, ifname = "eth0"): string => {
  const { code, message } = failure(() => kernel.findPeer(netns.path, ifname));
  assert.is(code, "EREFUSED", message);
  return message;
};
const indexOf = (ifname: string): number => JSON.parse(run("ip", "-j", "link", "show", ifname))[0].ifindex;

test("the host's end of a pair, on its own and enslaved to a bridge", () => {
  using world = scratch();
  const netns = pod(world);
  const expected = { ifindex: indexOf(hostEnd), ifname: hostEnd, kind: "veth" };
  assert.equal(kernel.findPeer(netns.path, "eth0"), expected);
  const bridge = `${hostEnd}b`;
  link("add", bridge, "type", "bridge");
  try {
    link("set", hostEnd, "master", bridge);
    assert.equal(kernel.findPeer(netns.path, "eth0"), expected);
  } finally {
    link("delete", bridge);
  }
});

test("a process of the pod gives the interface as many alternative names as it can have: it is found, with its peer and addresses", () => {
  using world = scratch();
  const netns = pod(world);
  const expected = kernel.findPeer(netns.path, "eth0");
  const addresses = kernel.interfaceAddresses(netns.path, "eth0").filter((address) => !address.startsWith("fe80"));
  assert.equal(addresses, ["10.97.0.2"]);
  const input = Array.from({ length: 600 }, (_, at) => `link property add dev eth0 altname n${at}${"x".repeat(110)}\n`);
  const { stderr } = spawnSync("ip", ["-n", netns.name, "-force", "-batch", "-"], {
    input: input.join(""),
    encoding: "utf8",
    maxBuffer: 1 << 20,
  });
  const [, refused] = /Command failed -:(\d+)/.exec(stderr) ?? [];
  assert.ok(Number(refused) > 300, stderr.slice(0, 200));
  assert.equal(kernel.findPeer(netns.path, "eth0"), expected);
  assert.ok(kernel.interfaceAddresses(netns.path, "eth0").includes("10.97.0.2"));
});

test("also where both ends have the same index", () => {
  using world = scratch();
  const netns = world.namespace();
  // Far beyond what others on this machine use meanwhile.
  const index = String(1_000_000_000 + process.pid);
  link("add", newHostEnd(), "index", index, "type", "veth", "peer", "eth0", "index", index, "netns", netns.name);
  assert.equal(kernel.findPeer(netns.path, "eth0"), { ifindex: Number(index), ifname: hostEnd, kind: "veth" });
});

test("no pair, or one that does not lead here, is refused by what it is", () => {
  using world = scratch();
  const [netns, other] = [pod(world), world.namespace()];
  const inside = (...words: string[]): string => netns.exec("ip", "link", "add", ...words);
  inside("mv0", "link", "eth0", "type", "macvlan");
  inside("br0", "type", "bridge");
  inside("a0", "type", "veth", "peer", "b0");
  inside("c0", "type", "veth", "peer", "c1", "netns", other.name);
  assert.match(refusal(netns, "mv0"), /^mv0 is a macvlan device: only a veth pair has an end at the host$/);
  assert.match(refusal(netns, "br0"), /^br0 is a bridge device/);
  assert.match(refusal(netns, "lo"), /^lo is hardware, or the loopback/);
  assert.match(
    refusal(netns, "a0"),
    /^the other end of a0 is not in the network namespace of the host, but in its own$/,
  );
  assert.match(refusal(netns, "c0"), /^the other end of c0 is .* but in a third one$/);
  assert.is(failure(() => kernel.findPeer(netns.path, "eth9")).code, "ENODEV");
  assert.is(failure(() => kernel.findPeer(netns.path, "a-name-that-is-too-long")).code, "ENODEV");
  assert.is(failure(() => kernel.findPeer(`${netns.path}-not`, "eth0")).code, "ENOENT");
});

test("a program goes before those that are there, in the process' own namespace; descriptors stay as many", () => {
  using world = scratch();
  const netns = pod(world);
  const ifindex = indexOf(hostEnd);
  const member = (value: number): Chain =>
    new Chain([
      {
        object: fixture(world, "verdict"),
        entry: "give_verdict",
        parameters: { verdict: u32(value) },
        countHead: true,
      },
    ]);
  using theirs = member(verdict.ok);
  using ours = member(verdict.shot);
  const attach = (chain: Chain, before?: boolean) =>
    kernel.attachTcx({
      program: chain.stages[0]?.program as number,
      netns: undefined,
      ifindex,
      direction: "ingress",
      ...(before === undefined ? {} : { before }),
    });
  const open = readdirSync("/proc/self/fd").length;
  const links = [attach(theirs), attach(ours, true)];
  spawnSync("ip", ["netns", "exec", netns.name, "ping", "-c", "3", "-i", "0.01", "-W", "0.1", "10.97.0.1"]);
  assert.ok((ours.counted(0).endings.shot ?? 0) >= 3);
  const behind = theirs.counted(0).headPackets;
  spawnSync("ip", ["netns", "exec", netns.name, "ping", "-c", "3", "-i", "0.01", "-W", "0.1", "10.97.0.1"]);
  assert.is(theirs.counted(0).headPackets, behind, "packets that ours dropped have met theirs");
  for (const each of links) kernel.close(each);
  kernel.findPeer(netns.path, "eth0");
  failure(() => kernel.findPeer(netns.path, "lo"));
  assert.is(readdirSync("/proc/self/fd").length, open);
});

test.run();
