// SPDX-License-Identifier: Apache-2.0
/** What a copy looks like: the egress side is told that a packet is a clone, as it is by the other half of the program. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TestRunRequest } from "../plugin/kernel/port.ts";
import { type Laboratory, laboratory } from "./laboratory.ts";
import {
  arp,
  ethernet,
  extension,
  fragment6,
  icmp,
  ipv4,
  ipv6,
  type Network,
  other,
  protocol,
  tcp,
  udp,
  vlan,
} from "./packets.ts";

const redirect = 7;
const shot = 2;
const four = { collector: "192.0.2.9", source_ipv4: "10.0.0.1", source_ipv6: "2001:db8::1" };
const six = { ...four, collector: "2001:db8:9::9" };

/** Runs a packet as a clone of one that arrived. */
function clone(lab: Laboratory, params: Record<string, string>, packet: Buffer, context?: TestRunRequest["context"]) {
  const chain = lab.chain([{ program: "mirror", entry: "mirror_egress", params }]);
  const [member] = chain.members;
  const passage = member?.stage.maps.find(({ name }) => name === "passage");
  const key = Buffer.alloc(4);
  const now = passage && lab.kernel.lookupMap(passage.fd, key);
  if (!member || !passage || !now) throw new Error("mirror has no map passage");
  for (let at = 0; at < now.length; at += 8) now.writeUInt32LE(1, at);
  lab.kernel.updateMap(passage.fd, key, now);
  const { verdict, packet: sent } = chain.pass(packet, context);
  const after = lab.kernel.lookupMap(passage.fd, key);
  const counts = member.contents("copies")[0]?.value as Record<string, number>;
  return {
    verdict,
    sent,
    counts: Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0)),
    /** CPUs on which the mark is gone. */
    cleared: Array.from({ length: now.length / 8 }, (_, at) => after?.readUInt32LE(at * 8)).filter((side) => side === 0)
      .length,
  };
}

function sum16(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

/** The outer headers, read and checked, and what is behind them. */
function unwrap(frame: Buffer) {
  assert.is(frame.toString("hex", 0, 12), "0".repeat(24), "the neighbour's resolution writes the MACs");
  const type = frame.readUInt16BE(12);
  let at = 14;
  let ip: Record<string, string | number>;
  if (type === 0x0800) {
    const header = frame.subarray(at, at + 20);
    assert.is(sum16(header), 0xffff, "the header's checksum");
    assert.is(header[0], 0x45);
    assert.is(header.readUInt16BE(6), 0);
    assert.is(header.readUInt16BE(2), frame.length - 14, "the outer length");
    ip = {
      source: header.subarray(12, 16).join("."),
      destination: header.subarray(16, 20).join("."),
      ttl: header[8] ?? 0,
    };
    ip.protocol = header[9] ?? 0;
    at += 20;
  } else {
    assert.is(type, 0x86dd);
    const header = frame.subarray(at, at + 40);
    assert.is(header.readUInt32BE(0), 0x60000000);
    assert.is(header.readUInt16BE(4), frame.length - 14 - 40, "the outer length");
    ip = { source: header.toString("hex", 8, 24), destination: header.toString("hex", 24, 40), ttl: header[7] ?? 0 };
    ip.protocol = header[6] ?? 0;
    at += 40;
  }
  if (ip.protocol === 47) {
    assert.is(frame.toString("hex", at, at + 4), "00006558");
    return { ip, inner: frame.subarray(at + 4) };
  }
  assert.is(ip.protocol, 17);
  const udp = { source: frame.readUInt16BE(at), port: frame.readUInt16BE(at + 2), length: frame.readUInt16BE(at + 4) };
  assert.is(udp.length, frame.length - at, "the outer datagram's length");
  assert.is(frame.readUInt16BE(at + 6), 0, "its checksum");
  assert.ok(udp.source >= 0xc000);
  assert.is(frame.readUInt32BE(at + 8), 0x08000000);
  assert.is(frame[at + 15], 0);
  return { ip, udp, vni: frame.readUIntBE(at + 12, 3), inner: frame.subarray(at + 16) };
}

const page = Buffer.from(Array.from({ length: 2000 }, (_, at) => at & 255));
const packets: Record<string, Buffer> = {
  "TCP over IPv4": ethernet(ipv4({}, tcp({}, page.subarray(0, 300)))),
  "UDP over IPv6": ethernet(ipv6({}, udp({}, page.subarray(0, 301)))),
  "ICMP with options": ethernet(ipv4({ options: Buffer.alloc(8, 1) }, icmp())),
  "a later fragment": ethernet(ipv6({}, fragment6({ offset: 8, more: true }, tcp()))),
  "extension headers": ethernet(ipv6({}, extension("hopByHop", protocol(89, page.subarray(0, 64))))),
  "a malformed header": ethernet(ipv4({ ihl: 15 }, tcp())),
  "a tag": ethernet(vlan(7, ipv4({}, tcp({}, page.subarray(0, 200))))),
  "an outer tag of two kinds": ethernet(vlan(0x2007, ipv6({}, udp()), 0x88a8)),
  "a destination MAC like an IP header": ethernet(ipv4({}, tcp()), "45:00:00:00:00:02"),
};

for (const mode of ["vxlan", "gre"])
  for (const [family, params] of Object.entries({ IPv4: four, IPv6: six }))
    for (const [what, packet] of Object.entries(packets))
      test(`${mode} over ${family}: ${what}`, () => {
        using lab = laboratory();
        const { verdict, sent, counts, cleared } = clone(lab, { ...params, mode, vni: "0xabcdef" }, packet);
        assert.is(verdict, redirect);
        assert.equal(counts, { ingress: 1 });
        assert.is(cleared, 1);
        const { ip, udp, vni, inner } = unwrap(sent);
        assert.equal(inner, packet);
        assert.is(ip.ttl, 64);
        assert.is(ip.source, family === "IPv4" ? "10.0.0.1" : "20010db8000000000000000000000001");
        assert.is(ip.destination, family === "IPv4" ? "192.0.2.9" : "20010db8000900000000000000000009");
        assert.is(ip.protocol, mode === "gre" ? 47 : 17);
        if (mode === "gre") return;
        assert.is(udp?.port, 4789);
        assert.is(vni, 0xabcdef);
      });

test("a flow has its source port, and the collector its own", () => {
  using lab = laboratory();
  const port = (network: Network) => unwrap(clone(lab, { ...four, port: "8472" }, ethernet(network)).sent).udp;
  const first = port(ipv4({}, tcp()));
  assert.is(first?.port, 8472);
  assert.equal(port(ipv4({}, tcp({}, page.subarray(0, 80))))?.source, first?.source);
  const others = [1, 2, 3, 4].map((source) => port(ipv4({}, tcp({ source })))?.source);
  assert.ok(others.some((source) => source !== first?.source));
});

for (const [what, params, packet, length, cut] of [
  ["truncate", { truncate: "500" }, packets["TCP over IPv4"], 354, 0],
  ["truncate", { truncate: "200" }, packets["TCP over IPv4"], 200, 0],
  ["truncate, behind a tag", { truncate: "200" }, packets["a tag"], 200, 0],
  ["truncate, less than 128", { truncate: "1" }, packets["UDP over IPv6"], 128, 0],
  ["mtu", { mtu: "1500" }, ethernet(ipv4({}, udp({}, page.subarray(0, 1472)))), 1500 - 20 - 16, 1],
  ["mtu, just fits", { mtu: "1500" }, ethernet(ipv4({}, udp({}, page.subarray(0, 1422)))), 1464, 0],
  ["mtu, one byte too many", { mtu: "1500" }, ethernet(ipv4({}, udp({}, page.subarray(0, 1423)))), 1464, 1],
  ["mtu, with a tag", { mtu: "1400" }, ethernet(vlan(7, ipv4({}, udp({}, page.subarray(0, 1400))))), 1364, 1],
  ["mtu, for GRE", { mtu: "1500", mode: "gre" }, ethernet(ipv4({}, udp({}, page.subarray(0, 1472)))), 1476, 1],
  ["truncate before mtu", { mtu: "1000", truncate: "990" }, ethernet(ipv4({}, udp({}, page))), 964, 1],
] as [string, Record<string, string>, Buffer, number, number][])
  test(`${what}: ${length} bytes of ${packet.length} are copied`, () => {
    using lab = laboratory();
    const { sent, counts } = clone(lab, { ...four, ...params }, packet);
    const { inner } = unwrap(sent);
    assert.equal(inner, packet.subarray(0, length));
    assert.is(counts.cut ?? 0, cut);
    assert.is(counts.ingress, 1);
  });

for (const [what, network] of Object.entries({
  ARP: arp(),
  LLDP: other(),
  "two tags": vlan(7, vlan(8, ipv4({}, tcp())), 0x88a8),
  "ARP behind a tag": vlan(7, arp()),
}))
  test(`not copied, and the clone dropped: ${what}`, () => {
    using lab = laboratory();
    const { verdict, counts, cleared } = clone(lab, four, ethernet(network));
    assert.is(verdict, shot);
    assert.equal(counts, { not_ip: 1 });
    assert.is(cleared, 1);
  });

test("not wrapped, and the clone dropped: several datagrams in one, unless they are cut to one", () => {
  const packet = ethernet(ipv4({}, udp({}, page.subarray(0, 1200))));
  const context = { gsoSize: 400, gsoSegs: 3 };
  using lab = laboratory();
  const { verdict, counts, cleared } = clone(lab, four, packet, context);
  assert.is(verdict, shot);
  assert.equal(counts, { not_wrapped: 1 });
  assert.is(cleared, 1);
  const cut = clone(lab, { ...four, mtu: "1000" }, packet, context);
  assert.is(cut.verdict, redirect);
  assert.equal(cut.counts, { ingress: 1, cut: 1 });
  assert.equal(unwrap(cut.sent).inner, packet.subarray(0, 1000 - 20 - 16));
});

for (const [what, params, reason] of [
  ["without a collector", { directions: "3" }, "no_collector"],
  ["without an address of its family", { ...six, source_ipv6: "::", directions: "3" }, "no_source"],
  ["of a sample of none", { ...four, sample: "0%", directions: "3" }, "not_sampled"],
] as [string, Record<string, string>, string][])
  test(`nothing is cloned ${what}`, () => {
    using lab = laboratory();
    const packet = packets["TCP over IPv4"] ?? Buffer.alloc(0);
    const chain = lab.chain([{ program: "mirror", entry: "mirror_egress", params }]);
    const { verdict, packet: after } = chain.pass(packet);
    assert.is(verdict, -1);
    assert.equal(after, packet);
    const counts = chain.members[0]?.contents("copies")[0]?.value as Record<string, number>;
    assert.is(counts[reason], 1);
  });

test("nothing that arrives is cloned before the egress side has run, or without one", () => {
  using lab = laboratory();
  for (const directions of ["1", "3"]) {
    const params = { ...four, directions };
    const chain = lab.chain([{ program: "mirror", entry: "mirror_ingress", params }]);
    assert.is(chain.run(packets["TCP over IPv4"] ?? Buffer.alloc(0)), -1);
    const counts = chain.members[0]?.contents("copies")[0]?.value as Record<string, number>;
    assert.is(counts.no_egress, 1);
  }
});

test.run();
