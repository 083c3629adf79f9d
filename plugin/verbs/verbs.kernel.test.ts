// SPDX-License-Identifier: Apache-2.0
/** The verbs on the real kernel: a pod and a peer in namespaces of their own, packets between them. */
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { acquaint, type Namespace, run, type Scratch, scratch, type VethEnd } from "../../e2e/lib/scratch.ts";
import { u32 } from "../chain/bytes.ts";
import { collect } from "../chain/collect.ts";
import { nodeMapPins, pinsOf } from "../chain/pins.ts";
import { listAttachments } from "../chain/status.ts";
import type { Verbs } from "../cni/dispatch.ts";
import { code, RemoraError } from "../errors.ts";
import { createNativeKernel } from "../kernel/native.ts";
import type { StatusEntry } from "../model.ts";
import { type KeptLog, keepLog, request, type Sketch } from "./fixture.ts";
import { createVerbs } from "./index.ts";

const kernel = createNativeKernel();

const head = `
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "Dual BSD/GPL";
`;
const sources: Record<string, string> = {
  // Returns what its parameter says.
  give: `${head}
const volatile int verdict = 0;
SEC("tc") int give(struct __sk_buff *skb) { return verdict; }
`,
  // Counts in a map that both directions share, pinned by name.
  pair: `${head}
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64);
         __uint(pinning, LIBBPF_PIN_BY_NAME); } seen SEC(".maps");
static int see(void) { __u32 key = 0; __u64 *count = bpf_map_lookup_elem(&seen, &key);
                       if (count) __sync_fetch_and_add(count, 1); return TC_ACT_UNSPEC; }
SEC("tc/ingress") int from_wire(struct __sk_buff *skb) { return see(); }
SEC("tc/egress") int to_wire(struct __sk_buff *skb) { return see(); }
`,
  // Tail-calls inside itself, to a program that its own array holds: the array must outlive the ADD.
  inner: `${head}
int deeper(struct __sk_buff *skb);
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 1); __type(key, __u32);
         __array(values, int(struct __sk_buff *)); } steps SEC(".maps") = { .values = { [0] = (void *)&deeper } };
SEC("tc/deeper") int deeper(struct __sk_buff *skb) { return TC_ACT_OK; }
SEC("tc/ingress") int parse(struct __sk_buff *skb) { bpf_tail_call(skb, &steps, 0); return TC_ACT_SHOT; }
`,
  // The verifier does not let it past.
  wild: `${head}
SEC("tc") int wild(struct __sk_buff *skb) { return *(volatile int *)(long)skb->mark; }
`,
};

interface Pod extends Disposable {
  world: Scratch;
  bpffs: string;
  pod: Namespace;
  peer: Namespace;
  verbs: Verbs;
  log: KeptLog;
  request(sketch?: Partial<Sketch>): ReturnType<typeof request>;
  /** How many of `count` pings from the peer are answered. */
  ping(count: number): number;
}

function pod(...programs: string[]): Pod {
  const world = scratch();
  const [inside, peer] = [world.namespace(), world.namespace()];
  const ends: [VethEnd, VethEnd] = [
    { namespace: inside, ifname: "eth0", addresses: ["10.98.0.2/24"] },
    { namespace: peer, ifname: "host0", addresses: ["10.98.0.1/24"] },
  ];
  // IPv6 sends on its own, at any moment: only what the tests send is to be counted.
  for (const { namespace } of ends) namespace.exec("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
  world.veth(...ends);
  acquaint(...ends);
  const folder = join(world.dir, "programs");
  mkdirSync(folder, { mode: 0o755 });
  for (const name of programs) {
    const object = world.compile({ text: sources[name] ?? "", name });
    run("cp", object, folder);
  }
  const bpffs = `${world.bpffs()}/remora`;
  const log = keepLog();
  return {
    world,
    bpffs,
    pod: inside,
    peer,
    log,
    verbs: createVerbs({ kernel: () => kernel, log }),
    request: (sketch = {}) => request(folder, bpffs, { netns: inside.path, ...sketch }),
    ping(count) {
      const script = `ping -q -n -c ${count} -i 0.01 -W 1 10.98.0.2 || true`;
      const [, received] = /(\d+) received/.exec(peer.exec("sh", "-c", script)) ?? [];
      return Number(received);
    },
    [Symbol.dispose]: () => world[Symbol.dispose](),
  };
}

async function refusal(promise: Promise<void>): Promise<RemoraError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof RemoraError) return error;
    throw error;
  }
  throw new Error("it succeeded");
}

const give = (verdict: number, more: object = {}) => ({ program: "give", params: { verdict }, ...more });
const shot = 2;

/** Everything below this bpffs but the kernel's own two files. */
function files(bpffs: string): string[] {
  const names = readdirSync(join(bpffs, ".."), { recursive: true }).map(String);
  return names.filter((name) => name !== "maps.debug" && name !== "progs.debug");
}

function openDescriptors(): number {
  return readdirSync("/proc/self/fd").length;
}

function assertSane(entries: StatusEntry[]): void {
  for (const entry of entries) {
    const ended = Object.values(entry.ended).reduce((sum, count) => sum + count, 0);
    assert.is(entry.packets, entry.proceeded + ended, JSON.stringify(entry));
    for (const count of [entry.packets, entry.bytes, entry.proceeded]) assert.ok(Number.isInteger(count) && count >= 0);
  }
}

test("ADD, traffic, status, CHECK, DEL: both directions, one object twice with different parameters", async () => {
  using it = pod("give", "pair");
  const chain = [give(0), { program: "pair" }, give(3), give(-1)];
  const asked = it.request({ config: { chain } });
  const before = openDescriptors();
  await it.verbs.add(asked);
  assert.is(openDescriptors(), before);
  await it.verbs.check(asked);
  assert.is(it.ping(20), 20);

  const [status] = listAttachments(kernel, it.bpffs);
  for (const entries of [status?.ingress ?? [], status?.egress ?? []]) {
    assert.equal(
      entries.map(({ program, params }) => [program, params]),
      chain.map(({ program, ...rest }) => [program, "params" in rest ? rest.params : {}]),
    );
    assertSane(entries);
    for (const entry of entries) assert.ok(entry.packets >= 20, JSON.stringify(entry));
    assert.is(entries[0]?.packets, entries[3]?.proceeded);
    assert.ok((entries[0]?.bytes ?? 0) >= 20 * 98);
  }
  // One map for both functions: it has seen what both directions have.
  const pins = pinsOf(it.bpffs, { network: "podnet", containerId: "c0ffee", ifname: "eth0" });
  const { fd } = kernel.openPin(pins.direction(1, "egress").map(1, "seen"));
  const seen = Number(kernel.lookupMap(fd, u32(0))?.readBigUInt64LE());
  kernel.close(fd);
  assert.is(seen, (status?.ingress[1]?.packets ?? 0) + (status?.egress[1]?.packets ?? 0));

  await it.verbs.del({ ...asked, netns: "" });
  await it.verbs.del(asked);
  assert.equal(files(it.bpffs), []);
  assert.is(openDescriptors(), before);
  assert.is(it.ping(3), 3);
});

test("a verdict that ends the chain: in its own direction, counted where it fell", async () => {
  using it = pod("give");
  const asked = it.request({ config: { chain: [give(0), give(shot, { directions: ["ingress"] }), give(0)] } });
  await it.verbs.add(asked);
  assert.is(it.ping(2), 0);
  const [status] = listAttachments(kernel, it.bpffs);
  const [first, second, third] = status?.ingress ?? [];
  assertSane(status?.ingress ?? []);
  assert.ok((first?.packets ?? 0) >= 2);
  assert.is(second?.ended.shot, first?.packets);
  assert.is(third?.packets, 0);
  assert.is(status?.egress.length, 2);
  await it.verbs.del(asked);
  assert.is(it.ping(3), 3);
});

test("a program's own PROG_ARRAY outlives the ADD", async () => {
  using it = pod("inner", "give");
  const asked = it.request({ config: { chain: [{ program: "inner" }, give(0)] } });
  writeFileSync(join(asked.config.programDirs[0] ?? "", "inner.yaml"), "entry: {ingress: parse}\n");
  await it.verbs.add(asked);
  // Emptied, its fall-through would drop.
  assert.is(it.ping(5), 5);
  await it.verbs.check(asked);
  await it.verbs.del(asked);
  assert.equal(files(it.bpffs), []);
});

test("a map of scope node counts for all pods, and goes with the last", async () => {
  using it = pod("pair");
  const asked = it.request({ config: { chain: [{ program: "pair" }] } });
  writeFileSync(join(asked.config.programDirs[0] ?? "", "pair.yaml"), "maps: {seen: node}\n");
  const peer = { ...asked, netns: it.peer.path, ifname: "host0", containerId: "peer" };
  await it.verbs.add(asked);
  await it.verbs.add(peer);
  assert.is(it.ping(10), 10);
  const { fd } = kernel.openPin(nodeMapPins(it.bpffs, "pair").map("seen"));
  // Each echo and each reply, out of one and into the other.
  assert.ok(Number(kernel.lookupMap(fd, u32(0))?.readBigUInt64LE()) >= 40);
  kernel.close(fd);
  await it.verbs.check(asked);
  await it.verbs.del(asked);
  await it.verbs.check(peer);
  await it.verbs.del(peer);
  assert.equal(files(it.bpffs), []);
});

test("32 positions carry packets to the last; the 33rd is refused and nothing is touched", async () => {
  using it = pod("give");
  const asked = it.request({ config: { chain: new Array(32).fill(give(0)) } });
  await it.verbs.add(asked);
  assert.is(it.ping(10), 10);
  const [status] = listAttachments(kernel, it.bpffs);
  for (const entries of [status?.ingress ?? [], status?.egress ?? []]) {
    assert.is(entries.length, 32);
    assertSane(entries);
    assert.ok((entries[31]?.proceeded ?? 0) >= 10);
    assert.is(entries[31]?.proceeded, entries[0]?.packets);
  }
  await it.verbs.check(asked);
  await it.verbs.del(asked);
  const error = await refusal(it.verbs.add(it.request({ config: { chain: new Array(33).fill(give(0)) } })));
  assert.is(error.code, code.chainTooLong);
  assert.equal(files(it.bpffs), []);
});

test("CHECK names what was tampered with", async () => {
  using it = pod("give");
  const asked = it.request({ config: { chain: [give(0), give(3)] } });
  const pins = pinsOf(it.bpffs, { network: "podnet", containerId: "c0ffee", ifname: "eth0" });
  const cases: [RegExp, () => void][] = [
    [/ingress link is missing/, () => kernel.removePin(pins.link("ingress"))],
    [
      /egress link is detached/,
      () => {
        const { fd } = kernel.openPin(pins.link("egress"));
        kernel.detachLink(fd);
        kernel.close(fd);
      },
    ],
    [
      /position 1 of the egress chain holds no program/,
      () => run("bpftool", "map", "delete", "pinned", pins.direction(1, "egress").chain, "key", "1", "0", "0", "0"),
    ],
    [/the ingress counters are missing/, () => kernel.removePin(pins.direction(1, "ingress").counters)],
    [/has no record/, () => kernel.removePin(pins.record)],
    [
      /interface eth0 .*was replaced/,
      () => {
        it.pod.exec("ip", "link", "delete", "eth0");
        it.pod.exec("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other0");
      },
    ],
  ];
  for (const [words, tamper] of cases) {
    await it.verbs.add(asked);
    await it.verbs.check(asked);
    tamper();
    const error = await refusal(it.verbs.check(asked));
    assert.is(error.code, code.attachmentDiffers);
    assert.match(error.message, words);
    await it.verbs.del(asked);
    assert.equal(files(it.bpffs), [], String(words));
  }
});

test("what the verifier refuses leaves nothing; left out, it leaves the rest", async () => {
  using it = pod("give", "wild");
  const chain = [give(0), { program: "wild" }];
  const error = await refusal(it.verbs.add(it.request({ config: { chain } })));
  assert.is(error.code, code.verifierRefused);
  assert.match(error.message, /wild .*invalid mem access/);
  assert.match(error.details, /processed \d+ insns/);
  assert.equal(files(it.bpffs), []);

  const asked = it.request({ config: { chain, failurePolicy: "open" } });
  await it.verbs.add(asked);
  await it.verbs.check(asked);
  const [status] = listAttachments(kernel, it.bpffs);
  assert.is(status?.ingress.length, 1);
  assert.is(status?.degraded[0]?.program, "wild");
  assert.is(it.ping(3), 3);
  await it.verbs.del(asked);
  assert.equal(files(it.bpffs), []);
});

test("a repeated ADD replaces the chain; two attachments do not meet", async () => {
  using it = pod("give");
  const drop = it.request({ config: { chain: [give(shot)] } });
  await it.verbs.add(drop);
  assert.is(it.ping(2), 0);
  const pass = it.request({ config: { chain: [give(0)] } });
  await it.verbs.add(pass);
  assert.is(it.ping(3), 3);
  const host = it.request({ netns: it.peer.path, ifname: "host0", config: { chain: [give(0)] } });
  await it.verbs.add(host);
  await it.verbs.del(pass);
  await it.verbs.check(host);
  await it.verbs.del(host);
  assert.equal(files(it.bpffs), []);
});

test("a namespace that dies without a DEL: the links say so, gc collects, DEL succeeds", async () => {
  using it = pod("give");
  const asked = it.request({ config: { chain: [give(0)] } });
  for (const collector of ["gc", "del"] as const) {
    const doomed = it.world.namespace();
    doomed.exec("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other0");
    await it.verbs.add({ ...asked, netns: doomed.path });
    run("ip", "netns", "delete", doomed.name);
    // The kernel takes a namespace apart a little later.
    const pins = pinsOf(it.bpffs, { network: "podnet", containerId: "c0ffee", ifname: "eth0" });
    const { fd } = kernel.openPin(pins.link("ingress"));
    const deadline = Date.now() + 10_000;
    while (kernel.linkInfo(fd).ifindex !== 0 && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 10));
    kernel.close(fd);
    if (collector === "gc")
      assert.equal(
        collect(kernel, it.bpffs).removed.map(({ containerId, reason }) => [containerId, reason]),
        [["c0ffee", "its interface is gone"]],
      );
    else await it.verbs.del({ ...asked, netns: doomed.path });
    assert.equal(files(it.bpffs), []);
  }
});

test("GC and STATUS", async () => {
  using it = pod("give");
  const asked = it.request({ config: { chain: [give(0)] } });
  await it.verbs.status(asked);
  await it.verbs.add(asked);
  const { config, cniVersion } = asked;
  await it.verbs.gc({ config, cniVersion, validAttachments: [{ containerId: "c0ffee", ifname: "eth0" }] });
  await it.verbs.check(asked);
  await it.verbs.gc({ config, cniVersion, validAttachments: [] });
  assert.equal(files(it.bpffs), []);
});

test("STATUS: a bpffs that is read-only, or not this user's, is not available; ADD says why as well", async () => {
  using it = pod("give");
  const asked = it.request({ config: { chain: [give(0)] } });
  const mount = join(it.bpffs, "..");
  run("mount", "-o", "remount,ro", mount);
  const readOnly = await refusal(it.verbs.status(asked));
  assert.is(readOnly.code, code.notAvailable, readOnly.message);
  assert.ok(readOnly.message.includes(`${mount} is mounted read-only`), readOnly.message);
  assert.ok(readOnly.message.endsWith(`: mount -o remount,rw ${mount}`), readOnly.message);
  assert.match((await refusal(it.verbs.add(asked))).message, /Read-only file system|read-only/);
  // As it says.
  run("mount", "-o", "remount,rw", mount);
  await it.verbs.status(asked);
  process.seteuid?.(65534);
  let denied: RemoraError;
  try {
    denied = await refusal(it.verbs.status(asked));
  } finally {
    process.seteuid?.(0);
  }
  assert.is(denied.code, code.notAvailable, denied.message);
  assert.match(denied.message, /was not read: permission denied \(it takes root\) \(EACCES\)/);
  await it.verbs.status(asked);
});

test("a pod without that interface, a node without bpffs", async () => {
  using it = pod("give");
  const chain = [give(0)];
  assert.is((await refusal(it.verbs.add(it.request({ ifname: "eth9", config: { chain } })))).code, code.noInterface);
  const gone = it.request({ netns: "/run/netns/remora-nowhere", config: { chain } });
  assert.is((await refusal(it.verbs.add(gone))).code, code.invalidEnvironment);
  const attached = it.request({ config: { chain } });
  await it.verbs.add(attached);
  for (const netns of ["/etc/hostname", "/etc/hostname/net", "/proc/self/ns/mnt", "/"])
    for (const verb of ["add", "check"] as const) {
      const error = await refusal(it.verbs[verb]({ ...attached, netns }));
      assert.is(error.code, code.invalidEnvironment, error.message);
      assert.match(error.message, new RegExp(`CNI_NETNS: there is no network namespace at ${netns}$`));
    }
  await it.verbs.check(attached);
  await it.verbs.del(attached);
  const nowhere = it.request({ config: { chain, bpffs: join(it.world.dir, "plain") } });
  for (const verb of ["add", "status"] as const)
    assert.is((await refusal(it.verbs[verb](nowhere))).code, code.notAvailable);
  await it.verbs.del(nowhere);
  assert.equal(files(it.bpffs), []);
});

test.run();
