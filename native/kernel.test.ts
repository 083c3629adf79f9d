// SPDX-License-Identifier: Apache-2.0
/** The kernel port's smaller operations on this machine's kernel: maps, pins, namespaces, TCX links, test runs. */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Namespace, scratch } from "../e2e/lib/scratch.ts";
import { type Direction, directions, type Fd, KernelError } from "../plugin/kernel/port.ts";
import { Chain, fixture, kernel, u32, verdict } from "./chain.ts";

type World = ReturnType<typeof scratch>;

function failure(run: () => unknown): KernelError {
  try {
    run();
  } catch (error) {
    if (error instanceof KernelError) return error;
    throw error;
  }
  throw new Error("nothing failed");
}

/** A namespace with a veth end `eth0`, whose other end is in a second namespace with 10.9.0.1. */
function pod(world: World): { netns: Namespace; host: Namespace; ifindex: number } {
  const netns = world.namespace();
  const host = world.namespace();
  world.veth(
    { namespace: netns, ifname: "eth0", addresses: ["10.9.0.2/24"] },
    { namespace: host, ifname: "veth0", addresses: ["10.9.0.1/24"] },
  );
  // No neighbour discovery: what a dropping program leaves undone must not outlast it.
  for (const [at, ifname, peer] of [
    [netns, "eth0", "10.9.0.1"],
    [host, "veth0", "10.9.0.2"],
  ] as const) {
    const address = kernel.findInterface(at === netns ? host.path : netns.path, at === netns ? "veth0" : "eth0").mac;
    at.exec("ip", "neigh", "replace", peer, "lladdr", address, "dev", ifname, "nud", "permanent");
  }
  return { netns, host, ifindex: kernel.findInterface(netns.path, "eth0").ifindex };
}

function oneMember(world: World, value: number): Chain {
  return new Chain([
    {
      object: fixture(world, "verdict"),
      entry: "give_verdict",
      parameters: { verdict: u32(value) },
      countHead: true,
    },
  ]);
}
const head = (chain: Chain): Fd => chain.stages[0]?.program as Fd;

const openDescriptors = (): number => readdirSync("/proc/self/fd").length;

test("maps: created, described, written, read, frozen", () => {
  const map = kernel.createMap({
    type: "hash",
    name: "a map/with-a long name",
    keySize: 2,
    valueSize: 5,
    maxEntries: 3,
  });
  try {
    const { id, ...info } = kernel.mapInfo(map);
    assert.ok(id > 0);
    assert.equal(info, { type: "hash", name: "a_map_with_a_lo", keySize: 2, valueSize: 5, maxEntries: 3 });
    assert.is(kernel.lookupMap(map, Buffer.from("ab")), undefined);
    kernel.updateMap(map, Buffer.from("ab"), Buffer.from("hello"));
    assert.is(kernel.lookupMap(map, Buffer.from("ab"))?.toString(), "hello");
    assert.match(
      failure(() => kernel.updateMap(map, Buffer.from("abc"), Buffer.from("hello"))).message,
      /key has 3 bytes/,
    );
    assert.match(
      failure(() => kernel.updateMap(map, Buffer.from("ab"), Buffer.from("hi"))).message,
      /value has 2 bytes/,
    );
    kernel.freezeMap(map);
    const error = failure(() => kernel.updateMap(map, Buffer.from("ab"), Buffer.from("hello")));
    assert.equal([error.operation, error.code], ["updateMap", "EPERM"]);
  } finally {
    kernel.close(map);
  }
  assert.is(failure(() => kernel.close(map)).code, "EBADF");
  assert.is(failure(() => kernel.mapInfo(map)).code, "EBADFD");
});

test("per-CPU values come one after the other, each padded to 8 bytes", () => {
  const map = kernel.createMap({ type: "percpu_array", name: "per_cpu", keySize: 4, valueSize: 12, maxEntries: 1 });
  try {
    const value = kernel.lookupMap(map, u32(0)) as Buffer;
    assert.is(value.length % 16, 0);
    for (let at = 0; at < value.length; at += 16) value.writeUInt32LE(at + 1, at + 8);
    kernel.updateMap(map, u32(0), value);
    assert.equal(kernel.lookupMap(map, u32(0)), value);
  } finally {
    kernel.close(map);
  }
});

test("programs: what the kernel says of them, the maps they use included", () => {
  using world = scratch();
  using chain = oneMember(world, verdict.ok);
  const info = kernel.programInfo(head(chain));
  assert.is(info.id, chain.stages[0]?.programId);
  assert.is(info.name, "give_verdict");
  assert.is(info.type, "sched_cls");
  assert.match(info.tag, /^[0-9a-f]{16}$/);
  for (const map of chain.stages[0]?.maps ?? []) assert.ok(info.mapIds.includes(map.id), map.name);
});

test("test runs take a packet and a context, and give back both", () => {
  using world = scratch();
  using chain = oneMember(world, verdict.ok);
  const packet = Buffer.alloc(80, 7);
  const result = kernel.testRun({
    program: head(chain),
    packet,
    context: { mark: 4, priority: 6, cb: [1, 2, 3, 4, 5] },
  });
  assert.is(result.context.mark, 40);
  assert.is(result.context.priority, 6);
  assert.equal(result.context.cb, [1, 2, 3, 4, 5]);
  assert.equal(result.packet, packet);
  const error = failure(() => kernel.testRun({ program: head(chain), packet: Buffer.alloc(3) }));
  assert.is(error.code, "EINVAL");
});

test("pins: map, program and link are told apart when opened", () => {
  using world = scratch();
  const root = world.bpffs();
  const { netns, ifindex } = pod(world);
  using chain = oneMember(world, verdict.ok);
  const link = kernel.attachTcx({ program: head(chain), netns: netns.path, ifindex, direction: "ingress" });
  const things = { map: chain.map, program: head(chain), link };
  kernel.makeDirectory(join(root, "d"));
  for (const [kind, fd] of Object.entries(things)) {
    kernel.pin(fd, join(root, "d", kind));
    const opened = kernel.openPin(join(root, "d", kind));
    assert.is(opened.kind, kind);
    kernel.close(opened.fd);
  }
  assert.is(failure(() => kernel.pin(link, join(root, "d", "link"))).code, "EEXIST");
  assert.is(failure(() => kernel.openPin(join(root, "d", "nope"))).code, "ENOENT");
  assert.match(failure(() => kernel.pin(link, join(world.dir, "x"))).message, /pins need a bpffs/);
  assert.equal(
    kernel
      .listDirectory(join(root, "d"))
      .map(({ name }) => name)
      .sort(),
    ["link", "map", "program"],
  );
  assert.is(failure(() => kernel.makeDirectory(join(root, "d"))).code, "EEXIST");
  assert.is(failure(() => kernel.removeDirectory(join(root, "d"))).code, "ENOTEMPTY");
  assert.ok((kernel.modified(join(root, "d")) ?? 0) > 0);
  for (const kind of Object.keys(things)) kernel.removePin(join(root, "d", kind));
  kernel.removePin(join(root, "d", "map"));
  kernel.removeDirectory(join(root, "d"));
  kernel.removeDirectory(join(root, "d"));
  assert.equal(kernel.listDirectory(join(root, "d")), []);
  assert.is(kernel.modified(join(root, "d")), undefined);
  kernel.close(link);
});

test("a directory's lock keeps others out, and says whether its path is still the same directory", () => {
  using world = scratch();
  const path = `${world.bpffs()}/locked`;
  kernel.makeDirectory(path);
  const lock = kernel.tryLock(path) as Fd;
  assert.is(kernel.tryLock(path), undefined);
  assert.ok(kernel.names(path, lock));
  kernel.removeDirectory(path);
  assert.not(kernel.names(path, lock));
  kernel.makeDirectory(path);
  assert.not(kernel.names(path, lock), "made again by another");
  kernel.close(kernel.tryLock(path) as Fd);
  kernel.close(lock);
  kernel.removeDirectory(path);
  assert.is(failure(() => kernel.tryLock(path)).code, "ENOENT");
});

test("a pin takes another's name in one step", () => {
  using world = scratch();
  const [from, to] = [`${world.bpffs()}/from`, `${world.bpffs()}/to`];
  const ids = [from, to].map((path) => {
    const map = kernel.createMap({ type: "array", name: "m", keySize: 4, valueSize: 8, maxEntries: 1 });
    kernel.pin(map, path);
    const { id } = kernel.mapInfo(map);
    kernel.close(map);
    return id;
  });
  kernel.renamePin(from, to);
  const { fd } = kernel.openPin(to);
  assert.is(kernel.mapInfo(fd).id, ids[0]);
  kernel.close(fd);
  assert.is(failure(() => kernel.openPin(from)).code, "ENOENT");
  assert.is(failure(() => kernel.openMapById(ids[1] ?? 0)).code, "ENOENT");
  assert.is(failure(() => kernel.renamePin(from, to)).code, "ENOENT");
});

test("running programs are waited for, with no descriptor left", () => {
  const before = openDescriptors();
  kernel.awaitPrograms();
  assert.is(openDescriptors(), before);
});

test("a bpffs is told from other file systems, by the nearest parent that exists", () => {
  using world = scratch();
  const root = world.bpffs();
  assert.is(kernel.isBpffs(root), true);
  assert.is(kernel.isBpffs(join(root, "not/yet/there")), true);
  assert.is(kernel.isBpffs(join(world.dir, "not/yet/there")), false);
  assert.throws(
    () => kernel.isBpffs(join(root, "remora.d/pins")),
    /remora\.d\/pins was not read: .*bpffs takes no dots in names/,
  );
});

test("an interface's addresses of both families, labelled ones too, and no other's", () => {
  using world = scratch();
  const { netns } = pod(world);
  for (const words of [
    ["10.9.0.3/32", "label", "eth0:x"],
    ["10.9.0.4", "peer", "10.9.0.1"],
    ["fd09::2/64", "nodad"],
  ])
    netns.exec("ip", "address", "add", words[0] ?? "", "dev", "eth0", ...words.slice(1));
  netns.exec("ip", "link", "add", "eth01", "type", "veth", "peer", "eth02");
  netns.exec("ip", "address", "add", "10.8.0.1/24", "dev", "eth01");
  const own = (ifname: string) =>
    kernel
      .interfaceAddresses(netns.path, ifname)
      .filter((address) => !address.startsWith("fe80:"))
      .sort();
  assert.equal(own("eth0"), ["10.9.0.2", "10.9.0.3", "10.9.0.4", "fd09::2"]);
  assert.equal(own("eth01"), ["10.8.0.1"]);
  assert.equal(own("eth02"), []);
  netns.exec("ip", "link", "property", "add", "dev", "eth01", "altname", "net1");
  assert.equal(own("net1"), ["10.8.0.1"]);
  assert.is(failure(() => own("eth03")).code, "ENODEV");
  assert.is(failure(() => kernel.interfaceAddresses(`${netns.path}-not`, "eth0")).code, "ENOENT");
});

test("an interface is found inside its namespace, and the process stays in its own", () => {
  using world = scratch();
  const { netns, host, ifindex } = pod(world);
  const before = readlinkSync("/proc/thread-self/ns/net");
  const found = kernel.findInterface(netns.path, "eth0");
  assert.is(found.mtu, 1500);
  const shown = JSON.parse(netns.exec("ip", "-j", "link", "show", "eth0"))[0];
  assert.is(found.ifindex, shown.ifindex);
  assert.is(found.ifindex, ifindex);
  assert.is(found.mac, shown.address);
  assert.equal(found.namespace, kernel.namespaceIdentity(netns.path));
  assert.ok(found.namespace.cookie > 0n);
  assert.not.equal(found.namespace, kernel.namespaceIdentity(host.path));
  assert.is(readlinkSync("/proc/thread-self/ns/net"), before);
  assert.is(failure(() => kernel.findInterface(netns.path, "veth0")).code, "ENODEV");
  assert.is(failure(() => kernel.findInterface(netns.path, "a-name-that-is-too-long")).code, "ENODEV");
  assert.is(failure(() => kernel.findInterface(`${netns.path}-not`, "eth0")).code, "ENOENT");
});

test("a path that is no network namespace names none", () => {
  using world = scratch();
  const file = join(world.dir, "file");
  writeFileSync(file, "");
  mkdirSync(join(world.dir, "folder"));
  symlinkSync("/nowhere", join(world.dir, "dangling"));
  for (const path of [
    file,
    join(world.dir, "folder"),
    join(world.dir, "dangling"),
    "/proc/self/ns/mnt",
    "/dev/null",
    `${file}/x`,
  ])
    assert.is(kernel.namespaceIdentity(path), undefined, path);
  assert.match(failure(() => kernel.findInterface("/proc/self/ns/mnt", "lo")).message, /no network namespace/);
  assert.match(failure(() => kernel.findInterface(file, "lo")).message, /is no namespace/);
});

for (const direction of directions)
  test(`TCX, ${direction}: packets meet the program from the link's first moment to its last`, () => {
    using world = scratch();
    const { netns, host, ifindex } = pod(world);
    const ping = (seconds = "10"): boolean => {
      try {
        host.exec("ping", "-c", "1", "-W", seconds, "10.9.0.2");
        return true;
      } catch {
        return false;
      }
    };
    assert.ok(ping());
    using drop = oneMember(world, verdict.shot);
    using pass = oneMember(world, verdict.ok);
    const link = kernel.attachTcx({ program: head(drop), netns: netns.path, ifindex, direction });
    const info = kernel.linkInfo(link);
    assert.equal(
      { ...info, id: 0 },
      { id: 0, type: "tcx", programId: drop.stages[0]?.programId, ifindex, direction: direction as Direction },
    );
    assert.not.ok(ping("0.3"));
    assert.ok((drop.counted(0).endings.shot ?? 0) > 0);
    kernel.updateLink(link, head(pass));
    assert.is(kernel.linkInfo(link).programId, pass.stages[0]?.programId);
    assert.ok(ping());
    assert.ok(pass.counted(0).headPackets > 0);
    assert.ok(pass.counted(0).headBytes > 0);
    kernel.updateLink(link, head(drop));
    kernel.detachLink(link);
    assert.is(kernel.linkInfo(link).ifindex, 0);
    assert.ok(ping());
    kernel.close(link);
  });

test("TCX: who is on a hook, in the order in which packets meet them", () => {
  using world = scratch();
  const { netns, ifindex } = pod(world);
  const place = { netns: netns.path, ifindex, direction: "ingress" } as const;
  assert.equal(kernel.listTcx(place), []);
  using first = oneMember(world, verdict.ok);
  using second = oneMember(world, verdict.shot);
  const late = kernel.attachTcx({ program: head(first), ...place });
  const early = kernel.attachTcx({ program: head(second), ...place, before: true });
  const { name } = kernel.programInfo(head(first));
  assert.equal(
    kernel.listTcx(place),
    [
      [second, early],
      [first, late],
    ].map(([chain, link]) => ({
      programId: (chain as typeof first).stages[0]?.programId,
      linkId: kernel.linkInfo(link as number).id,
      name,
    })),
  );
  assert.equal(kernel.listTcx({ ...place, direction: "egress" }), []);
  for (const link of [late, early]) kernel.close(link);
  assert.is(failure(() => kernel.listTcx({ ...place, ifindex: 9999 })).code, "ENODEV");
  assert.is(failure(() => kernel.listTcx({ ...place, netns: "/nowhere" })).code, "ENOENT");
});

test("TCX: a second program runs after the first", () => {
  using world = scratch();
  const { netns, host, ifindex } = pod(world);
  using first = oneMember(world, verdict.ok);
  using second = oneMember(world, verdict.shot);
  const links = [first, second].map((chain) =>
    kernel.attachTcx({ program: head(chain), netns: netns.path, ifindex, direction: "ingress" }),
  );
  assert.throws(() => host.exec("ping", "-c", "1", "-W", "0.3", "10.9.0.2"));
  assert.ok(first.counted(0).headPackets > 0);
  assert.ok((second.counted(0).endings.shot ?? 0) > 0);
  for (const link of links) kernel.close(link);
});

test("a link whose device is gone says so: ifindex 0, and ENOLINK for changes", () => {
  using world = scratch();
  const { netns, ifindex } = pod(world);
  using chain = oneMember(world, verdict.ok);
  const link = kernel.attachTcx({ program: head(chain), netns: netns.path, ifindex, direction: "egress" });
  netns.exec("ip", "link", "delete", "eth0");
  assert.is(kernel.linkInfo(link).ifindex, 0);
  const error = failure(() => kernel.updateLink(link, head(chain)));
  assert.is(error.code, "ENOLINK");
  assert.match(error.message, /device is gone/);
  kernel.detachLink(link); // nothing left to do, and no error
  kernel.close(link);
});

test("attaching to what is not there fails with the reason", () => {
  using world = scratch();
  const { netns } = pod(world);
  using chain = oneMember(world, verdict.ok);
  const attach = (path: string, ifindex: number) => () =>
    kernel.attachTcx({ program: head(chain), netns: path, ifindex, direction: "ingress" });
  assert.is(failure(attach(netns.path, 9999)).code, "ENODEV");
  assert.is(failure(attach(`${netns.path}-not`, 1)).code, "ENOENT");
  assert.is(failure(attach("/dev/null", 1)).code, "EINVAL");
});

test("nothing leaks a descriptor, whether it works or fails", () => {
  using world = scratch();
  const { netns, ifindex } = pod(world);
  const bad = fixture(world, "verdict").subarray(0, 500);
  const text = `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    SEC("tc") int reads_beyond(struct __sk_buff *skb) { return *(__u32 *)(long)skb->data; }
    char _license[] SEC("license") = "GPL";`;
  const refused = { object: readFileSync(world.compile({ text })), entry: "reads_beyond" };
  const once = (): void => {
    using chain = oneMember(world, verdict.ok);
    kernel.close(kernel.attachTcx({ program: head(chain), netns: netns.path, ifindex, direction: "ingress" }));
    failure(() => kernel.inspectObject(bad));
    failure(() => kernel.findInterface(netns.path, "nope"));
    failure(() => new Chain([refused]));
    failure(() => kernel.attachTcx({ program: head(chain), netns: netns.path, ifindex: 9999, direction: "ingress" }));
  };
  once();
  const before = openDescriptors();
  for (let i = 0; i < 5; i++) once();
  assert.is(openDescriptors(), before);
});

test.run();
