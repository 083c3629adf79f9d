// SPDX-License-Identifier: Apache-2.0
/**
 * Copies on their way: a pod (a), whom it talks to (b), and a collector behind b (c), which takes the copies out of VXLAN by a
 * device of the kernel's. Compared are the pod's own packets, as they pass its interface, with what comes out there.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Namespace, run } from "../e2e/lib/scratch.ts";
import { type Chain, type Laboratory, laboratory, type Wanted } from "./laboratory.ts";
import { ipv4, udp } from "./packets.ts";
import { ethernetPair, four, six } from "./pairs.ts";

/** Where copies go, and the device of the collector's that takes them in. */
const collectors = {
  IPv4: { address: "192.168.9.2", vni: "77", name: "copies4" },
  IPv6: { address: "fd09::2", vni: "78", name: "copies6" },
} as const;
type Family = keyof typeof collectors;

interface Scene {
  pod: Namespace;
  peer: Namespace;
  collector: Namespace;
  device: string;
  counts(): Record<string, number>;
  ping(to: string, ...options: string[]): void;
}

/** The three, made once: where they go is the end of the process (see scratch.ts). */
function ground(): Pick<Scene, "pod" | "peer" | "collector"> {
  if (made) return made;
  const lab = laboratory();
  const [pod, peer] = ethernetPair(lab);
  const collector = lab.world.namespace();
  lab.world.veth(
    { namespace: peer, ifname: "up0", addresses: ["192.168.9.1/24", "fd09::1/64"] },
    { namespace: collector, ifname: "eth0", addresses: ["192.168.9.2/24", "fd09::2/64"] },
  );
  for (const setting of ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
    peer.exec("sysctl", "-qw", setting);
  // With the outer headers, no piece may be beyond 64 KiB: such a one is cut.
  for (const end of [pod, peer])
    end.exec("ip", "link", "set", "pod0", "gso_max_size", "60000", "gro_max_size", "60000");
  pod.exec("ip", "route", "add", "default", "via", four[1]);
  pod.exec("ip", "-6", "route", "add", "default", "via", six[1]);
  collector.exec("ip", "route", "add", "default", "via", "192.168.9.1");
  collector.exec("ip", "-6", "route", "add", "default", "via", "fd09::1");
  for (const family of ["IPv4", "IPv6"] as const) {
    const { name, vni, address } = collectors[family];
    const device = `link add ${name} type vxlan id ${vni} dstport 4789 local ${address} udp6zerocsumrx`;
    collector.exec("ip", ...device.split(" "));
    collector.exec("ip", "link", "set", name, "up");
  }
  made = { pod, peer, collector };
  return made;
}
let made: ReturnType<typeof ground> | undefined;

function scene(
  lab: Laboratory,
  family: Family,
  { params = {}, sides = ["ingress", "egress"], before = [] }: Partial<Options> = {},
): Scene {
  const { pod, peer, collector } = ground();
  const all = {
    collector: collectors[family].address,
    vni: collectors[family].vni,
    source_ipv4: four[0],
    source_ipv6: six[0],
    directions: String((sides.includes("ingress") ? 1 : 0) + (sides.includes("egress") ? 2 : 0)),
    ...params,
  };
  const chains: Chain[] = [];
  for (const side of sides) {
    const sharing = chains[0]?.members[0];
    const wanted = { program: "mirror", entry: `mirror_${side}`, params: all, ...(sharing && { sharing }) };
    const chain = lab.chain(side === "egress" ? [...before, wanted] : [wanted]);
    lab.attach(chain, pod, "pod0", side);
    chains.push(chain);
  }
  const it: Scene = {
    pod,
    peer,
    collector,
    device: collectors[family].name,
    counts: () => chains[0]?.members[0]?.contents("copies")[0]?.value as Record<string, number>,
    ping(to, ...options) {
      pod.exec("ping", "-q", "-W", "10", ...options, to);
    },
  };
  // Neighbours are known, and mirror has seen that something leaves. Small ones, since their copies may be still on the way.
  for (const to of [four[1], six[1], collectors[family].address]) it.ping(to, "-c", "1", "-s", "9");
  return it;
}
interface Options {
  params: Record<string, string>;
  sides: ("ingress" | "egress")[];
  /** What stands before it in the egress chain. */
  before: Wanted[];
}

// ---- what passes a device --------------------------------------------------------------------------------------

interface Capture {
  /** Ends it, on a busy machine not before there are enough, and gives the frames. */
  frames(enough: number | ((frames: Buffer[]) => boolean)): Promise<Buffer[]>;
}

async function capture(lab: Laboratory, namespace: Namespace, ifname: string): Promise<Capture> {
  const file = join(lab.world.dir, `${namespace.name}-${ifname}.pcap`);
  const argv = ["netns", "exec", namespace.name, "dumpcap", "-P", "-q", "-B", "64", "-i", ifname, "-w", file];
  const child: ChildProcess = spawn("ip", argv, { stdio: ["ignore", "ignore", "pipe"] });
  const ended = once(child, "close");
  let said = "";
  child.stderr?.on("data", (data) => {
    said += data;
  });
  for (let round = 0; !said.includes("File:") && round < 400 && child.exitCode === null; round++) await sleep(25);
  assert.match(said, /File:/);
  return {
    async frames(enough) {
      const isEnough = typeof enough === "number" ? (frames: Buffer[]) => echoes(frames).length >= enough : enough;
      // In any case for a while: there may be more than should be.
      await sleep(300);
      for (let round = 0; !isEnough(framesOf(readFileSync(file))) && round < 100; round++) await sleep(100);
      child.kill("SIGINT");
      await ended;
      return framesOf(readFileSync(file));
    },
  };
}

/** Of a capture file, the last may be half written. */
function framesOf(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 24; at + 16 <= bytes.length; ) {
    const length = bytes.readUInt32LE(at + 8);
    if (at + 16 + length <= bytes.length) frames.push(bytes.subarray(at + 16, at + 16 + length));
    at += 16 + length;
  }
  return frames;
}

/** Echo requests and replies, but for the smallest, in hexadecimal. Sorted: question and answer may overtake each other, by CPU. */
function echoes(frames: Buffer[]): string[] {
  const isEcho = (frame: Buffer) =>
    frame.readUInt16BE(12) === 0x0800
      ? frame[23] === 1 && [0, 8].includes(frame[34] ?? -1)
      : frame.readUInt16BE(12) === 0x86dd && frame[20] === 58 && [128, 129].includes(frame[54] ?? -1);
  return frames
    .filter((frame) => frame.length > 80 && isEcho(frame))
    .map((frame) => frame.toString("hex"))
    .sort();
}

/** The two streams of a TCP connection over IPv4, by the server's port, as far as they were seen. */
function streams(frames: Buffer[], port: number): { toServer: Buffer; toClient: Buffer } {
  const parts = { toServer: new Map<number, Buffer>(), toClient: new Map<number, Buffer>() };
  const starts = { toServer: 0, toClient: 0 };
  for (const frame of frames) {
    if (frame.readUInt16BE(12) !== 0x0800 || frame[23] !== 6) continue;
    const tcp = frame.subarray(14 + ((frame[14] ?? 0) & 15) * 4);
    const way = tcp.readUInt16BE(2) === port ? "toServer" : "toClient";
    const payload = tcp.subarray(((tcp[12] ?? 0) >> 4) * 4);
    const sequence = tcp.readUInt32BE(4);
    if ((tcp[13] ?? 0) & 2) starts[way] = sequence + 1;
    else if (payload.length > 0) parts[way].set((sequence - starts[way]) >>> 0, payload);
  }
  const whole = (way: keyof typeof parts): Buffer => {
    const end = Math.max(0, ...[...parts[way]].map(([at, part]) => at + part.length));
    const bytes = Buffer.alloc(end);
    for (const [at, part] of parts[way]) bytes.set(part, at);
    return bytes;
  };
  return { toServer: whole("toServer"), toClient: whole("toClient") };
}

// ---- tests -----------------------------------------------------------------------------------------------------

for (const family of ["IPv4", "IPv6"] as const)
  test(`to a collector over ${family}: copies of both directions, IPv4 and IPv6, byte for byte`, async () => {
    using lab = laboratory();
    const it = scene(lab, family);
    const [own, copied] = [await capture(lab, it.pod, "pod0"), await capture(lab, it.collector, it.device)];
    const before = it.counts();
    for (const to of [four[1], six[1]]) it.ping(to, "-c", "5", "-i", "0.05", "-s", "300");
    const [originals, copies] = [echoes(await own.frames(20)), echoes(await copied.frames(20))];
    assert.is(originals.length, 20);
    assert.equal(copies, originals);
    const after = it.counts();
    for (const side of ["ingress", "egress"])
      assert.ok((after[side] ?? 0) - (before[side] ?? 0) >= 10, `${side}: ${JSON.stringify(after)}`);
    for (const what of ["not_wrapped", "not_cloned", "lost", "cut", "no_source", "own_error"])
      assert.is(after[what], 0, `${what}: ${JSON.stringify(after)}`);
  });

test("a transfer in large pieces arrives as it was sent, and its copies hold the same bytes, both ways", async () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4");
  const copied = await capture(lab, it.collector, it.device);
  // A full segment that is sent alone has no room for the outer headers, and is cut. These have.
  for (const [end, other] of [
    [it.pod, four[1]],
    [it.peer, four[0]],
  ] as const)
    end.exec("ip", "route", "replace", `${other}/32`, "dev", "pod0", "advmss", "1300");
  const size = 2_000_000;
  const script = (text: string) => ["-e", text];
  const server = spawn(
    "ip",
    [
      ...["netns", "exec", it.peer.name, process.execPath],
      ...script(`const server = require("net").createServer({ allowHalfOpen: true }, (socket) => {
        const parts = [];
        socket.on("data", (part) => parts.push(part));
        socket.on("end", () => { socket.end(Buffer.concat(parts)); server.close(); });
      }).listen(5001, () => console.log("listening"));`),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  try {
    await once(server.stdout, "data");
    const [sent, received] = it.pod
      .exec(
        process.execPath,
        ...script(`const { createHash, randomBytes } = require("crypto");
        const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
        const bytes = randomBytes(${size}), parts = [];
        const socket = require("net").connect({ port: 5001, host: "${four[1]}", allowHalfOpen: true }, () => socket.end(bytes));
        socket.on("data", (part) => parts.push(part));
        socket.on("end", () => console.log(digest(bytes) + " " + digest(Buffer.concat(parts))));`),
      )
      .trim()
      .split(" ");
    assert.is(received, sent);
    const digests = (frames: Buffer[]) => {
      const { toServer, toClient } = streams(frames, 5001);
      return [toServer, toClient].map((stream) => createHash("sha256").update(stream).digest("hex"));
    };
    const frames = await copied.frames((seen) => digests(seen).every((digest) => digest === sent));
    assert.equal(digests(frames), [sent, sent], JSON.stringify(it.counts()));
    assert.ok(
      frames.some((frame) => frame.length > 4000),
      "no copy is larger than a segment: this was no test of GSO",
    );
    assert.equal([it.counts().not_wrapped, it.counts().cut], [0, 0]);
  } finally {
    server.kill();
  }
});

test("the beginning alone, where that is asked for; and what does not fit with the outer headers", async () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4", { params: { truncate: "200" } });
  const [own, copied] = [await capture(lab, it.pod, "pod0"), await capture(lab, it.collector, it.device)];
  for (const to of [four[1], six[1]]) it.ping(to, "-c", "3", "-i", "0.05", "-s", "1000");
  const [originals, copies] = [echoes(await own.frames(12)), echoes(await copied.frames(12))];
  assert.is(originals.length, 12);
  assert.equal(
    copies,
    originals.map((frame) => frame.slice(0, 400)),
  );
  assert.is(it.counts().cut, 0);
});

test("a full packet is cut by the outer headers", async () => {
  using lab = laboratory();
  const it = scene(lab, "IPv6");
  const [own, copied] = [await capture(lab, it.pod, "pod0"), await capture(lab, it.collector, it.device)];
  const before = it.counts().cut ?? 0;
  it.ping(four[1], "-c", "2", "-i", "0.05", "-s", "1472");
  const [originals, copies] = [echoes(await own.frames(4)), echoes(await copied.frames(4))];
  assert.equal(
    copies,
    originals.map((frame) => frame.slice(0, 2 * (1500 - 40 - 8 - 8))),
  );
  assert.is((it.counts().cut ?? 0) - before, 4);
});

test("a sample of them", () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4", { params: { sample: "25%" } });
  it.ping(four[1], "-c", "300", "-i", "0.002");
  const { ingress = 0, egress = 0, not_sampled = 0 } = it.counts();
  assert.ok(ingress + egress + not_sampled >= 600);
  for (const count of [ingress, egress]) assert.ok(count > 25 && count < 150, JSON.stringify(it.counts()));
});

test("a collector that does not listen: its complaints are not copied back to it", async () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4", { params: { port: "4790" } });
  it.ping(four[1], "-c", "20", "-i", "0.02");
  for (let round = 0; !it.counts().own_error && round < 100; round++) await sleep(20);
  const { own_error = 0, ingress = 0 } = it.counts();
  assert.ok(own_error > 0);
  assert.ok(ingress < 60, JSON.stringify(it.counts()));
});

test("without its egress side nothing is copied, and nothing is sent that arrived", async () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4", { sides: ["ingress"] });
  const seen = await capture(lab, it.peer, "pod0");
  it.ping(four[1], "-c", "5", "-i", "0.02");
  assert.is(echoes(await seen.frames(10)).length, 10);
  const { no_egress = 0, ingress } = it.counts();
  assert.ok(no_egress >= 5);
  assert.is(ingress, 0);
});

test("at the host's end nothing is copied, and nothing sent back to the pod", async () => {
  using lab = laboratory();
  const { pod, peer } = ground();
  const params = { collector: "192.168.9.2", source_ipv4: four[0], directions: "2" };
  const chain = lab.chain([{ program: "mirror", entry: "mirror_egress", params }]);
  lab.attach(chain, peer, "pod0", "ingress");
  const seen = await capture(lab, pod, "pod0");
  pod.exec("ping", "-q", "-c", "5", "-i", "0.02", four[1]);
  assert.is(echoes(await seen.frames(10)).length, 10);
  const counts = chain.members[0]?.contents("copies")[0]?.value as Record<string, number>;
  assert.ok((counts.misplaced ?? 0) >= 5);
  assert.is(counts.egress, 0);
});

test("what a program before it drops of the copies is lost, and counted", () => {
  using lab = laboratory();
  // The copies of what arrives go to the pod itself, until they are wrapped.
  const acl = { program: "acl", entry: "acl_egress", params: { rules: `deny icmp ${four[0]}` } };
  const it = scene(lab, "IPv4", { before: [acl] });
  const before = it.counts();
  it.ping(four[1], "-c", "5", "-i", "0.02");
  const after = it.counts();
  const more = (what: string) => (after[what] ?? 0) - (before[what] ?? 0);
  assert.is(more("lost"), 5, JSON.stringify(after));
  assert.ok(more("egress") >= 5);
  assert.is(more("not_cloned"), 0);
});

test("packets of the pod's own tunnel, with checksums still to be written, are sent but not copied", () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4");
  for (const [namespace, own, other] of [
    [it.pod, 0, 1],
    [it.peer, 1, 0],
  ] as const) {
    const ip = (text: string) => namespace.exec("ip", ...text.split(" "));
    ip(`link add tunnel type vxlan id 5 dstport 4791 local ${four[own]} remote ${four[other]}`);
    ip(`address add 192.168.11.${own + 1}/24 dev tunnel`);
    ip("link set tunnel up");
  }
  try {
    // The first packet asks for the neighbour.
    it.ping("192.168.11.2", "-c", "1", "-s", "9");
    const before = it.counts();
    // That it is refused tells that it has arrived.
    const script = `const socket = require("dgram").createSocket("udp4").on("error", ({ code }) => {
        console.log(code);
        socket.close();
      });
      socket.connect(9, "192.168.11.2", () => socket.send("hello"));`;
    assert.is(it.pod.exec(process.execPath, "-e", script).trim(), "ECONNREFUSED");
    const after = it.counts();
    const more = (what: string) => (after[what] ?? 0) - (before[what] ?? 0);
    assert.is(more("not_wrapped"), 1, JSON.stringify(after));
    assert.ok(more("ingress") >= 1, JSON.stringify(after));
  } finally {
    for (const namespace of [it.pod, it.peer]) namespace.exec("ip", "link", "delete", "tunnel");
  }
});

test("the egress side alone copies what leaves", async () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4", { sides: ["egress"] });
  const copied = await capture(lab, it.collector, it.device);
  it.ping(six[1], "-c", "5", "-i", "0.02");
  const copies = echoes(await copied.frames(5));
  assert.is(copies.length, 5);
  assert.ok(copies.every((frame) => frame.slice(108, 110) === "80"));
});

test("GRE, as tshark reads it", async () => {
  using lab = laboratory();
  const it = scene(lab, "IPv4", { params: { mode: "gre" } });
  const arriving = await capture(lab, it.collector, "eth0");
  it.ping(six[1], "-c", "3", "-i", "0.02");
  const inGre = (frames: Buffer[]) => frames.filter((frame) => frame[23] === 47);
  const large = (frames: Buffer[]) => inGre(frames).filter((frame) => frame.length > 140);
  assert.is(large(await arriving.frames((frames) => large(frames).length >= 6)).length, 6);
  const file = join(lab.world.dir, `${it.collector.name}-eth0.pcap`);
  const fields = ["-e", "gre.proto", "-e", "icmpv6.type", "-e", "icmpv6.echo.sequence_number"];
  // The collector has nobody for GRE, and may say so in ICMP, with the packet that it is about.
  const filter = "gre && !icmp && icmpv6.echo.identifier && ipv6.plen > 50";
  const read = spawnSync("tshark", ["-n", "-r", file, "-Y", filter, "-T", "fields", ...fields], { encoding: "utf8" });
  assert.is(read.status, 0, read.stderr);
  const rows = read.stdout
    .trim()
    .split("\n")
    .map((row) => row.split("\t"));
  assert.equal(
    rows.map(([protocol, type, sequence]) => `${protocol} ${type} ${sequence}`).sort(),
    ["128", "129"].flatMap((type) => [1, 2, 3].map((sequence) => `0x6558 ${type} ${sequence}`)),
  );
});

test("a device without Ethernet headers: copies of both directions, with an Ethernet header made up", async () => {
  using lab = laboratory();
  const pod = lab.world.namespace();
  const helper = join(lab.world.dir, "tun");
  run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, join(import.meta.dirname, "fixtures/tun.c"));
  const tun = spawn("ip", ["netns", "exec", pod.name, helper, "pod0"], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    let said = "";
    tun.stdout.on("data", (data) => {
      said += data;
    });
    const packets = () => said.split("\n").slice(1, -1);
    const until = async (done: () => boolean) => {
      for (let round = 0; !done() && round < 400; round++) await sleep(25);
      assert.ok(done(), said);
    };
    await until(() => said.includes("ready"));
    pod.exec("ip", "address", "add", "10.95.0.1/24", "dev", "pod0");
    pod.exec("ip", "link", "set", "pod0", "up");
    const params = { collector: "10.95.0.9", source_ipv4: "10.95.0.1", directions: "3", mtu: "1500" };
    const ingress = lab.chain([{ program: "mirror", entry: "mirror_ingress", params }]);
    const egress = lab.chain([
      { program: "mirror", entry: "mirror_egress", params, ...(ingress.members[0] && { sharing: ingress.members[0] }) },
    ]);
    lab.attach(ingress, pod, "pod0", "ingress");
    lab.attach(egress, pod, "pod0", "egress");

    /** The copy of a packet: outer IPv4, UDP to 4789, VXLAN, zeros and an ethertype, and the packet. */
    const isCopyOf = (original: string) => (packet: string) =>
      packet.startsWith("45") &&
      packet.slice(44, 48) === "12b5" &&
      packet.slice(72) === `${"0".repeat(24)}0800${original}`;
    const echo = (packet: string, type: string) => packet.startsWith("45") && packet.slice(40, 42) === type;
    spawnSync("ip", ["netns", "exec", pod.name, "ping", "-c", "1", "-W", "1", "10.95.0.2"]);
    await until(() => packets().some((packet) => echo(packet, "08")));
    const [left = ""] = packets().filter((packet) => echo(packet, "08"));
    await until(() => packets().filter(isCopyOf(left)).length === 1);

    // A question to the pod, which answers it: both are copied.
    const question = ipv4({ source: "10.95.0.2", destination: "10.95.0.1" }, udp({ destination: 7 })).bytes;
    question.writeUInt16BE(0, 10);
    question.writeUInt16BE(checksum(question.subarray(0, 20)), 10);
    tun.stdin.write(`${question.toString("hex")}\n`);
    await until(() => packets().filter(isCopyOf(question.toString("hex"))).length === 1);
    await until(() => packets().some((packet) => echo(packet, "03")));
    const [answer = ""] = packets().filter((packet) => echo(packet, "03"));
    await until(() => packets().filter(isCopyOf(answer)).length === 1);

    // The kernel sends no packet without a byte.
    const counts = () => ingress.members[0]?.contents("copies")[0]?.value as Record<string, number>;
    assert.equal([counts().not_cloned, counts().lost, counts().not_wrapped], [0, 0, 0]);
    tun.stdin.write("\n");
    await until(() => counts().not_cloned === 1);
  } finally {
    tun.stdin.end();
  }
});

function checksum(header: Buffer): number {
  let sum = 0;
  for (let at = 0; at < header.length; at += 2) sum += header.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

test.run();
