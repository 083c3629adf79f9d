// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TestRunRequest } from "../plugin/kernel/port.ts";
import { laboratory } from "./laboratory.ts";
import { readTotals } from "./layout.ts";
import {
  arp,
  authentication,
  ethernet,
  extension,
  fragment6,
  icmp,
  icmpv6,
  ipv4,
  ipv6,
  other,
  protocol,
  sctp,
  tcp,
  udp,
  vlan,
} from "./packets.ts";

const next = -1;

interface Row {
  what: string;
  packet: Buffer;
  context?: TestRunRequest["context"];
  /** Where it counts. */
  as: string;
  wirePackets?: number;
  /** The frame's length unless said otherwise. */
  wireBytes?: number;
}

const segments = ethernet(ipv4({}, tcp({}, Buffer.alloc(3000))));

const rows: Row[] = [
  { what: "TCP over IPv4", packet: ethernet(ipv4({}, tcp())), as: "ipv4_tcp" },
  { what: "UDP over IPv4", packet: ethernet(ipv4({}, udp())), as: "ipv4_udp" },
  { what: "ICMP", packet: ethernet(ipv4({}, icmp())), as: "ipv4_icmp" },
  { what: "SCTP over IPv4", packet: ethernet(ipv4({}, sctp())), as: "ipv4_other" },
  { what: "ICMPv6's number over IPv4", packet: ethernet(ipv4({}, icmpv6())), as: "ipv4_other" },
  { what: "IPv4 with options", packet: ethernet(ipv4({ options: Buffer.alloc(40, 1) }, udp())), as: "ipv4_udp" },
  {
    what: "a later IPv4 fragment",
    packet: ethernet(ipv4({ fragment: { offset: 100, more: false } }, udp())),
    as: "ipv4_udp",
  },
  {
    what: "a destination MAC that begins like IPv4",
    packet: ethernet(ipv4({}, tcp()), "46:00:00:00:00:02"),
    as: "ipv4_tcp",
  },
  { what: "TCP over IPv6", packet: ethernet(ipv6({}, tcp())), as: "ipv6_tcp" },
  { what: "UDP over IPv6", packet: ethernet(ipv6({}, udp())), as: "ipv6_udp" },
  { what: "ICMPv6", packet: ethernet(ipv6({}, icmpv6())), as: "ipv6_icmp" },
  { what: "ESP over IPv6", packet: ethernet(ipv6({}, protocol(50))), as: "ipv6_other" },
  {
    what: "every extension header",
    packet: ethernet(
      ipv6(
        {},
        extension(
          "hopByHop",
          extension("destination", extension("routing", authentication(extension("destination", tcp(), 64)), 24)),
          16,
        ),
      ),
    ),
    as: "ipv6_tcp",
  },
  {
    what: "a first IPv6 fragment",
    packet: ethernet(ipv6({}, fragment6({ offset: 0, more: true }, udp()))),
    as: "ipv6_udp",
  },
  {
    what: "a later IPv6 fragment",
    packet: ethernet(ipv6({}, fragment6({ offset: 9, more: true }, udp()))),
    as: "ipv6_udp",
  },
  { what: "an 802.1Q tag", packet: ethernet(vlan(7, ipv4({}, tcp()))), as: "ipv4_tcp" },
  { what: "QinQ", packet: ethernet(vlan(7, vlan(8, ipv6({}, udp())), 0x88a8)), as: "ipv6_udp" },
  {
    what: "a tag whose contents look like IPv4",
    packet: ethernet(vlan(0x4500, ipv6({}, tcp()))),
    as: "ipv6_tcp",
  },
  {
    what: "five tags, one more than are followed",
    packet: ethernet(vlan(1, vlan(2, vlan(3, vlan(4, vlan(5, ipv4({}, tcp()))))))),
    as: "other",
  },
  { what: "ARP", packet: ethernet(arp()), as: "arp" },
  { what: "ARP behind a tag", packet: ethernet(vlan(7, arp())), as: "arp" },
  { what: "LLDP", packet: ethernet(other()), as: "other" },
  { what: "an 802.3 frame", packet: ethernet(other(46)), as: "other" },
  // Behind a tag, since prog_test_run refuses an IP header that is cut short where it would be the first.
  { what: "an IPv4 header cut short", packet: ethernet(vlan(7, ipv4({}, tcp()))).subarray(0, 34), as: "ipv4_other" },
  { what: "an IPv6 header cut short", packet: ethernet(vlan(7, ipv6({}, tcp()))).subarray(0, 54), as: "ipv6_other" },
  { what: "IPv4 of version 6", packet: ethernet(ipv4({ version: 6 }, tcp())), as: "ipv4_other" },
  { what: "an IPv4 header of 4 words", packet: ethernet(ipv4({ ihl: 4 }, tcp())), as: "ipv4_other" },
  {
    what: "GSO as egress tells it: wire_len is the truth",
    packet: segments,
    context: { gsoSegs: 3, gsoSize: 1000, wireLen: 3162 },
    as: "ipv4_tcp",
    wirePackets: 3,
    wireBytes: 3162,
  },
  {
    what: "no GSO: wire_len is the frame's length",
    packet: segments,
    context: { wireLen: 3054 },
    as: "ipv4_tcp",
    wireBytes: 3054,
  },
];

for (const { what, packet, context, as, wirePackets = 1, wireBytes = packet.length } of rows)
  test(`${what} counts as ${as}`, () => {
    using lab = laboratory();
    const chain = lab.chain([{ program: "count", entry: "count" }]);
    assert.is(chain.run(packet, context), next);
    const counted = readTotals(chain.members[0]?.totals("totals") ?? []);
    assert.equal(counted, { [as]: [1, wirePackets, wireBytes] });
  });

test("whatever its length, a packet counts once and passes", () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "count", entry: "count" }]);
  let packets = 0;
  let bytes = 0;
  // Below 15 bytes there is nothing behind the Ethernet header, which prog_test_run refuses.
  // prog_test_run wants something behind the Ethernet header, and a first IP header whole: tags hide the others.
  for (const { whole, from = 15 } of [
    { whole: ethernet(ipv4({ options: Buffer.alloc(8, 1) }, tcp())), from: 14 + 20 },
    {
      whole: ethernet(ipv6({}, extension("hopByHop", fragment6({ offset: 0, more: true }, tcp()), 16))),
      from: 14 + 40,
    },
    { whole: ethernet(vlan(7, ipv4({ options: Buffer.alloc(8, 1) }, tcp()))) },
    { whole: ethernet(vlan(7, vlan(8, ipv6({}, extension("hopByHop", udp()))))) },
    { whole: ethernet(arp()) },
  ])
    for (let length = from; length <= whole.length; length++) {
      assert.is(chain.run(whole.subarray(0, length)), next, `${length} bytes`);
      packets++;
      bytes += length;
    }
  const totals = chain.members[0]?.totals("totals") ?? [];
  const sum = (word: number) => totals.filter((_, index) => index % 3 === word).reduce((a, b) => a + b, 0);
  assert.equal([sum(0), sum(1), sum(2)], [packets, packets, bytes]);
});

test("the kernel knows the totals' type: bpffs shows them as text", () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "count", entry: "count" }]);
  chain.run(ethernet(ipv4({}, tcp())));
  const map = chain.members[0]?.stage.maps.find(({ name }) => name === "totals");
  const path = join(lab.world.bpffs(), "totals");
  lab.kernel.pin(map?.fd ?? -1, path);
  assert.match(readFileSync(path, "utf8"), /cpu\d+: \{\{1,1,54,\},\{0,0,0,\}/);
});

test.run();
