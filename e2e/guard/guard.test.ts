// SPDX-License-Identifier: Apache-2.0
/**
 * guard on a pod, behind ptp and behind bridge: honest traffic passes, with address resolution and the search for duplicates;
 * what pretends to be somebody else does not, past the queueing layer neither. And whose addresses they are through a
 * pod's life: ADD's, whatever the pod has made of its interface since.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { laboratory } from "../../bpf/laboratory.ts";
import { readTotals } from "../../bpf/layout.ts";
import { arp, discovery, ethernet, ipv4, ipv6, protocol, udp } from "../../bpf/packets.ts";
import { parseIpv6 } from "../../plugin/catalog/address.ts";
import { type Namespace, run } from "../lib/scratch.ts";

const root = resolve(import.meta.dirname, "../..");
const podAddresses = ["10.96.0.2", "fd96::2"] as const;
const hostAddresses = ["10.96.0.1", "fd96::1"] as const;

interface Answer {
  status: number | null;
  said: string;
}
interface Node extends Disposable {
  pod: Namespace;
  host: Namespace;
  podMac: string;
  hostMac: string;
  cni(verb: "ADD" | "CHECK" | "DEL", change?: { chain?: object[]; annotations?: Record<string, string> }): Answer;
  remora(...argv: string[]): Answer;
  /** What guard has decided, as `remora maps` shows it. */
  guarded(container?: string): Record<string, number>;
  /** Packets that have come past guard, by class. */
  passed(): Record<string, number[]>;
  send(frame: Buffer, way: "queue" | "bypass"): void;
  pings(address: string): boolean;
}

function node(behind: "ptp" | "bridge"): Node {
  const lab = laboratory();
  const { world } = lab;
  try {
    const [pod, host] = [world.namespace(), world.namespace()];
    const receiver = behind === "bridge" ? "bridge0" : "host0";
    const given = hostAddresses.map((address) => `${address}/${address.includes(":") ? 64 : 24}`);
    world.veth(
      { namespace: pod, ifname: "eth0", addresses: ["10.96.0.2/24", "fd96::2/64"] },
      { namespace: host, ifname: "host0", addresses: behind === "bridge" ? [] : given },
    );
    if (behind === "bridge") {
      host.exec("ip", "link", "add", receiver, "type", "bridge");
      host.exec("ip", "link", "set", "host0", "master", receiver);
      host.exec("ip", "link", "set", receiver, "up");
      for (const address of given)
        host.exec("ip", "address", "add", address, "dev", receiver, ...(address.includes(":") ? ["nodad"] : []));
    }
    const programs = join(world.dir, "programs");
    mkdirSync(programs, { mode: 0o755 });
    for (const file of ["guard.bpf.o", "guard.yaml", "count.bpf.o", "acl.bpf.o", "mirror.bpf.o", "mirror.yaml"])
      copyFileSync(join(root, "dist/programs", file), join(programs, file));
    const helper = join(world.dir, "frame");
    run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, join(root, "bpf/fixtures/frame.c"));
    const behindGuard = lab.chain([{ program: "count", entry: "count" }]);
    lab.attach(behindGuard, host, "host0", "ingress");
    const bpffs = `${world.bpffs()}/remora`;
    const call = (argv: string[], env: Record<string, string>, input = ""): Answer => {
      const command = [`--net=${host.path}`, process.execPath, join(root, "plugin/main.ts"), ...argv];
      const options = { encoding: "utf8", env: { ...process.env, ...env }, input, timeout: 60_000 } as const;
      const child = spawnSync("nsenter", command, options);
      return { status: child.status, said: `${child.stdout}${child.stderr}` };
    };
    const remora: Node["remora"] = (...argv) => call([...argv, "--bpffs", bpffs], {});
    const macOf = (namespace: Namespace, ifname: string): string =>
      JSON.parse(namespace.exec("ip", "-j", "link", "show", ifname))[0].address;
    return {
      pod,
      host,
      podMac: macOf(pod, "eth0"),
      hostMac: macOf(host, receiver),
      cni(verb, { chain = [{ program: "guard" }], annotations } = {}) {
        const interfaces = [{ name: "host0" }, { name: "eth0", sandbox: pod.path }];
        const ips = [
          { address: "10.96.0.2/24", interface: 1 },
          { address: "fd96::2/64", interface: 1 },
        ];
        const prevResult = { cniVersion: "1.0.0", interfaces, ips };
        const runtimeConfig = annotations && { "io.kubernetes.cri.pod-annotations": annotations };
        const own = { programDirs: [programs], chain, bpffs, ...(runtimeConfig && { runtimeConfig }) };
        const input = { cniVersion: "1.0.0", name: "podnet", type: "remora", ...own, prevResult };
        const env = { CNI_COMMAND: verb, CNI_CONTAINERID: "c1", CNI_IFNAME: "eth0", CNI_NETNS: pod.path };
        return call([], { ...env, CNI_PATH: "/opt/cni/bin" }, JSON.stringify(input));
      },
      remora,
      guarded(container = "c1") {
        const { status, said } = remora("maps", container, "guard", "--json");
        assert.is(status, 0, said);
        const { maps } = JSON.parse(said);
        const { entries } = maps.find(({ name }: { name: string }) => name === "packets");
        return Object.fromEntries(Object.entries<number>(entries[0].value).filter(([, count]) => count > 0));
      },
      passed: () => readTotals(behindGuard.members[0]?.totals("totals") ?? []),
      send(frame, way) {
        const command = ["netns", "exec", pod.name, helper, "eth0", ...(way === "bypass" ? ["bypass"] : [])];
        const sent = spawnSync("ip", command, { input: frame, encoding: "utf8" });
        assert.is(sent.status, 0, sent.stderr);
      },
      pings: (address) =>
        spawnSync("ip", ["netns", "exec", pod.name, "ping", "-c", "1", "-W", "10", address]).status === 0,
      [Symbol.dispose]: () => lab[Symbol.dispose](),
    };
  } catch (error) {
    lab[Symbol.dispose]();
    throw error;
  }
}

const done = ({ status, said }: Answer): string => {
  assert.is(status, 0, said);
  return said;
};

const dropped = (counts: Record<string, number>) =>
  Object.fromEntries(Object.entries(counts).filter(([name]) => name.startsWith("dropped")));

/** The addresses and the MAC that guard was given, as `status` shows them. */
function identityIn(it: Node): { addresses?: string; mac?: string } {
  const { attachments } = JSON.parse(done(it.remora("status", "--json")));
  return attachments[0].egress.find(({ program }: { program: string }) => program === "guard").params;
}

/** An advertisement of neighbour discovery, or another message with a target. */
function discover(type: number, source: string, target: string) {
  const body = Buffer.concat([Buffer.from([type, 0]), Buffer.alloc(6), parseIpv6(target) ?? Buffer.alloc(0)]);
  return ipv6({ source, destination: "ff02::1", hopLimit: 255 }, protocol(58, body));
}

/** Frames of a pod that pretends, and what each is dropped for. */
function pretences({ podMac, hostMac }: Node): { frame: Buffer; reason: string }[] {
  const frame = (payload: Parameters<typeof ethernet>[0], from = podMac) => ethernet(payload, hostMac, from);
  const [destination, destination6] = hostAddresses;
  return [
    { frame: frame(ipv4({ source: "10.96.0.9", destination }, udp())), reason: "dropped_address" },
    { frame: frame(ipv4({ source: hostAddresses[0], destination }, udp())), reason: "dropped_address" },
    { frame: frame(ipv6({ source: "fd96::9", destination: destination6 }, udp())), reason: "dropped_address" },
    {
      frame: frame(ipv4({ source: podAddresses[0], destination }, udp()), "02:00:00:00:00:66"),
      reason: "dropped_mac",
    },
    { frame: frame(arp({ operation: 2, senderMac: podMac, sender: hostAddresses[0] })), reason: "dropped_neighbour" },
    { frame: frame(arp({ senderMac: hostMac, sender: podAddresses[0] })), reason: "dropped_neighbour" },
    { frame: frame(discover(discovery.advertisement, podAddresses[1], "fd96::1")), reason: "dropped_neighbour" },
    { frame: frame(discover(discovery.routerAdvertisement, podAddresses[1], "::")), reason: "dropped_router" },
    {
      frame: frame(ipv4({ source: podAddresses[0], destination }, udp({ source: 67, destination: 68 }))),
      reason: "dropped_dhcp",
    },
  ];
}

for (const behind of ["ptp", "bridge"] as const)
  test(`behind ${behind}, honest traffic passes, and of what pretends nothing, however it is sent`, async () => {
    using it = node(behind);
    done(it.cni("ADD"));
    assert.equal(identityIn(it), { addresses: "10.96.0.2; fd96::2", mac: it.podMac });

    // Both ways round, with neighbours that nobody knows yet; and a search for duplicates.
    it.pod.exec("ip", "address", "del", "fd96::2/64", "dev", "eth0");
    it.pod.exec("ip", "address", "add", "fd96::2/64", "dev", "eth0");
    const tentative = () => /tentative|dadfailed/.test(it.pod.exec("ip", "-6", "address", "show", "dev", "eth0"));
    for (let round = 0; tentative() && round < 200; round++) await sleep(50);
    assert.not.ok(tentative());
    for (const address of hostAddresses) assert.ok(it.pings(address), address);
    it.host.exec("ip", "neigh", "flush", "all");
    for (const address of podAddresses) it.host.exec("ping", "-c", "1", "-W", "10", address);
    const honest = it.guarded();
    for (const what of ["passed_ipv4", "passed_ipv6", "passed_arp", "passed_discovery"]) assert.ok(honest[what], what);
    assert.equal(dropped(honest), {});

    const frames = pretences(it);
    const expected: Record<string, number> = {};
    for (const { reason } of frames) expected[reason] = (expected[reason] ?? 0) + 2;
    const before = it.passed();
    for (const way of ["queue", "bypass"] as const) for (const { frame } of frames) it.send(frame, way);
    assert.equal(dropped(it.guarded()), expected);
    for (const kind of ["ipv4_udp", "ipv6_udp"]) assert.equal(it.passed()[kind], before[kind], kind);

    // What is the pod's own passes the same ways.
    const own = ethernet(
      ipv4({ source: podAddresses[0], destination: hostAddresses[0] }, udp()),
      it.hostMac,
      it.podMac,
    );
    for (const way of ["queue", "bypass"] as const) it.send(own, way);
    assert.is(it.passed().ipv4_udp?.[0], (before.ipv4_udp?.[0] ?? 0) + 2);
    done(it.cni("CHECK"));
    done(it.cni("DEL"));
  });

test("inside the pod it holds for what takes the ordinary way alone", () => {
  using it = node("ptp");
  done(it.cni("ADD", { chain: [{ program: "guard", at: "pod" }] }));
  const [spoofed] = pretences(it);
  if (!spoofed) throw new Error("there is none");
  it.send(spoofed.frame, "queue");
  assert.is(it.passed().ipv4_udp, undefined);
  it.send(spoofed.frame, "bypass");
  assert.is(it.passed().ipv4_udp?.[0], 1);
});

test("the pod stays who it was at ADD, whatever it makes of its interface, through CHECK and apply", () => {
  using it = node("ptp");
  done(it.cni("ADD", { chain: [{ program: "guard", params: { also_allow: "10.97.0.0/16" } }] }));
  const identity = identityIn(it);
  it.pod.exec("ip", "link", "set", "eth0", "down");
  it.pod.exec("ip", "link", "set", "eth0", "address", "02:00:00:00:00:66", "up");
  it.pod.exec("ip", "address", "add", "10.96.0.9/24", "dev", "eth0");
  done(it.cni("CHECK"));
  done(it.remora("apply", "c1", "--programs", "count"));
  assert.equal(identityIn(it), identity);
  done(it.remora("apply", "c1", "--without-node-chain", "--programs", "guard", "--param", "guard.dhcp=deny"));
  const { addresses, mac } = identity;
  assert.equal(identityIn(it), { dhcp: "deny", addresses, mac });
  assert.is(mac, it.podMac);
  // The administrator's word counts, and what he did not say comes from ADD again.
  done(it.remora("apply", "c1", "--without-node-chain", "--programs", "guard", "--param", "guard.addresses=10.96.0.9"));
  assert.equal(identityIn(it), { addresses: "10.96.0.9", mac });
  done(it.remora("apply", "c1", "--without-node-chain", "--programs", "guard"));
  assert.equal(identityIn(it), { addresses, mac });
});

test("a pod cannot say who it is: error 102, and nothing is attached", () => {
  using it = node("ptp");
  const annotations = { "remora.io/programs": "guard", "guard.remora.io/addresses": "10.96.0.9" };
  const { status, said } = it.cni("ADD", { chain: [], annotations });
  assert.is(status, 1, said);
  const { code, msg } = JSON.parse(said);
  assert.is(code, 102);
  assert.match(msg, /^annotation guard.remora.io\/addresses: is filled from the pod's own interface/);
  assert.equal(JSON.parse(done(it.remora("status", "--json"))).attachments, []);
  // What is its own to say, it may.
  const mild = { "remora.io/programs": "guard", "guard.remora.io/also_allow": "10.97.0.0/16" };
  done(it.cni("ADD", { chain: [], annotations: mild }));
  assert.is(identityIn(it).addresses, "10.96.0.2; fd96::2");
});

test("the copies of mirror are the pod's own, and no other program of its egress chain sees them", () => {
  using it = node("ptp");
  const device = "link add copies0 type vxlan id 1 dstport 4789 local 10.96.0.1";
  it.host.exec("ip", ...device.split(" "));
  it.host.exec("ip", "link", "set", "copies0", "up");
  const rules = "allow icmp; allow icmpv6";
  const chain = [
    { program: "mirror", params: { collector: "10.96.0.1" } },
    { program: "acl", params: { rules, default_action: "deny" }, directions: ["egress"] },
    { program: "count", directions: ["egress"] },
    { program: "guard" },
  ];
  done(it.cni("ADD", { chain }));
  const copied = () => JSON.parse(it.host.exec("ip", "-s", "-j", "link", "show", "copies0"))[0].stats64.rx.packets;
  const before = copied();
  for (const address of hostAddresses) assert.ok(it.pings(address), address);
  assert.ok(copied() >= before + 4, `${before} ${copied()}`);
  assert.equal(dropped(it.guarded()), {});
  const [{ egress }] = JSON.parse(done(it.remora("status", "--json"))).attachments;
  const [mirror, acl] = egress;
  assert.equal(mirror.params, {
    ...{ collector: "10.96.0.1", mtu: 1500, directions: 3 },
    ...{ source_ipv4: "10.96.0.2", source_ipv6: "fd96::2" },
  });
  assert.is(acl.program, "acl");
  assert.is(acl.ended.shot ?? 0, 0);
  // Each copy comes by twice: as a clone, and wrapped.
  assert.is(mirror.ended.redirect, mirror.ended.ok);
  done(it.cni("DEL"));
});

test("by hand, the interface is what it is now", () => {
  using it = node("ptp");
  const dir = join(root, "dist/programs");
  const where = ["--netns", it.pod.path, "--ifname", "eth0", "--container", "c2", "--dir", dir];
  done(it.remora("attach", ...where, "--programs", "guard"));
  assert.equal(identityIn(it), { addresses: "10.96.0.2; fd96::2", mac: it.podMac });
  done(it.remora("detach", "--netns", it.pod.path, "--ifname", "eth0"));
  it.pod.exec("ip", "address", "flush", "dev", "eth0");
  const refused = it.remora("attach", ...where, "--programs", "guard");
  assert.is(refused.status, 1);
  assert.match(refused.said, /parameter addresses: .* was given none/);
  done(it.remora("attach", ...where, "--programs", "guard", "--param", "guard.addresses=10.96.0.7"));
  assert.equal(identityIn(it), { addresses: "10.96.0.7", mac: it.podMac });
});

test.run();
