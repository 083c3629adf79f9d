// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Direction, TestRunRequest } from "../plugin/kernel/port.ts";
import { laboratory } from "./laboratory.ts";
import { readMarkings } from "./layout.ts";
import {
  arp,
  authentication,
  discovery,
  ethernet,
  extension,
  fragment6,
  icmpv6,
  ipv4,
  ipv6,
  other,
  sctp,
  tcp,
  udp,
  vlan,
} from "./packets.ts";

const next = -1;
const ef = 46 << 2;
const af41 = 34 << 2;
const cs1 = 8 << 2;

interface Row {
  what: string;
  params?: Record<string, string>;
  direction?: Direction;
  before: Buffer;
  /** The packet as it leaves; as it came, unless said otherwise. */
  after?: Buffer;
  context?: TestRunRequest["context"];
  mark?: number;
  priority?: number;
  counts: Record<string, number>;
}

const v4 = (tos: number) => ethernet(ipv4({ tos }, tcp()));
const v6 = (tos: number) => ethernet(ipv6({ tos, flowLabel: 0xfedcb }, tcp()));
const all = { dscp: "EF" };
const marked = { marked: 1, default: 1 };
const voice = { rules: "EF udp any 5060; AF41 tcp 10.0.0.0/8 443; keep icmpv6; CS1 any" };

const tables: Record<string, Row[]> = {
  "the code point": [
    { what: "nothing asked for", params: {}, before: v4(cs1), counts: {} },
    { what: "IPv4", before: v4(0), after: v4(ef), counts: marked },
    { what: "IPv6", before: v6(0), after: v6(ef), counts: marked },
    { what: "on ingress", direction: "ingress", before: v4(0), after: v4(ef), counts: marked },
    { what: "in place of another", before: v4(af41), after: v4(ef), counts: marked },
    { what: "of all ones", params: { dscp: "63" }, before: v6(0), after: v6(0xfc), counts: marked },
    { what: "best effort", params: { dscp: "BE" }, before: v4(ef | 1), after: v4(1), counts: marked },
    { what: "by number", params: { dscp: "34" }, before: v4(0), after: v4(af41), counts: marked },
    { what: "one it has already", before: v4(ef | 2), counts: { already: 1, default: 1 } },
  ],
  "whatever stands around": [
    {
      what: "IPv4 options",
      before: ethernet(ipv4({ options: Buffer.alloc(40, 1) }, tcp())),
      after: ethernet(ipv4({ options: Buffer.alloc(40, 1), tos: ef }, tcp())),
      counts: marked,
    },
    {
      what: "IPv6 extension headers",
      before: ethernet(ipv6({}, extension("hopByHop", authentication(tcp()), 16))),
      after: ethernet(ipv6({ tos: ef }, extension("hopByHop", authentication(tcp()), 16))),
      counts: marked,
    },
    {
      what: "a tag",
      before: ethernet(vlan(7, ipv4({}, tcp()))),
      after: ethernet(vlan(7, ipv4({ tos: ef }, tcp()))),
      counts: marked,
    },
    {
      what: "two tags",
      before: ethernet(vlan(7, vlan(8, ipv6({ tos: 3 }, udp())), 0x88a8)),
      after: ethernet(vlan(7, vlan(8, ipv6({ tos: ef | 3 }, udp())), 0x88a8)),
      counts: marked,
    },
    {
      what: "a MAC that begins like IPv4",
      before: ethernet(ipv4({}, tcp()), "45:00:00:00:00:02"),
      after: ethernet(ipv4({ tos: ef }, tcp()), "45:00:00:00:00:02"),
      counts: marked,
    },
    {
      what: "a later fragment",
      before: ethernet(ipv4({ fragment: { offset: 8, more: true } }, tcp())),
      after: ethernet(ipv4({ fragment: { offset: 8, more: true }, tos: ef }, tcp())),
      counts: marked,
    },
    {
      what: "a later IPv6 fragment",
      before: ethernet(ipv6({}, fragment6({ offset: 8, more: true }, tcp()))),
      after: ethernet(ipv6({ tos: ef }, fragment6({ offset: 8, more: true }, tcp()))),
      counts: marked,
    },
    {
      what: "a GSO packet",
      before: ethernet(ipv4({}, tcp({}, Buffer.alloc(3000)))),
      after: ethernet(ipv4({ tos: ef }, tcp({}, Buffer.alloc(3000)))),
      context: { gsoSegs: 3, gsoSize: 1000, wireLen: 3162 },
      counts: marked,
    },
  ],
  "what has none": [
    { what: "ARP", before: ethernet(arp()), counts: { notIp: 1, default: 1 } },
    { what: "LLDP", before: ethernet(other()), counts: { notIp: 1, default: 1 } },
    {
      what: "IPv4 of version 5",
      before: ethernet(ipv4({ version: 5 }, tcp())),
      counts: { malformed: 1 },
    },
    {
      what: "IPv6 cut short behind a tag",
      before: ethernet(vlan(7, ipv6({}, tcp()))).subarray(0, 50),
      counts: { malformed: 1 },
    },
    {
      what: "neighbour discovery stays",
      before: ethernet(ipv6({ hopLimit: 255 }, icmpv6(discovery.solicitation))),
      counts: { unchanged: 1, default: 1 },
    },
    {
      what: "but for a rule that names it",
      params: { rules: "keep any; CS6 icmpv6" },
      before: ethernet(ipv6({ hopLimit: 255 }, icmpv6(discovery.solicitation))),
      after: ethernet(ipv6({ hopLimit: 255, tos: 48 << 2 }, icmpv6(discovery.solicitation))),
      counts: { marked: 1, "rule 1": 1 },
    },
  ],
  rules: [
    {
      what: "the first that matches",
      params: voice,
      before: ethernet(ipv6({}, udp({ destination: 5060 }))),
      after: ethernet(ipv6({ tos: ef }, udp({ destination: 5060 }))),
      counts: { marked: 1, "rule 0": 1 },
    },
    {
      what: "a prefix is the destination on egress",
      params: { rules: "AF41 10.0.0.2" },
      before: v4(0),
      after: v4(af41),
      counts: { marked: 1, "rule 0": 1 },
    },
    {
      what: "and the source on ingress",
      params: { rules: "AF41 10.0.0.2; EF 10.0.0.1" },
      direction: "ingress",
      before: v4(0),
      after: v4(ef),
      counts: { marked: 1, "rule 1": 1 },
    },
    {
      what: "of one direction",
      params: { rules: "EF ingress tcp; AF41 egress tcp" },
      before: v4(0),
      after: v4(af41),
      counts: { marked: 1, "rule 1": 1 },
    },
    {
      what: "keep",
      params: { ...voice, dscp: "AF41" },
      before: ethernet(ipv6({ tos: ef }, icmpv6())),
      counts: { unchanged: 1, "rule 2": 1 },
    },
    { what: "the last", params: voice, before: v6(0), after: v6(cs1), counts: { marked: 1, "rule 3": 1 } },
    {
      what: "the last of 32",
      params: { rules: `${"EF udp;".repeat(31)} AF41 sctp 3868` },
      before: ethernet(ipv4({}, sctp())),
      after: ethernet(ipv4({ tos: af41 }, sctp())),
      counts: { marked: 1, "rule 31": 1 },
    },
    {
      what: "none, and a default",
      params: { rules: "EF udp", dscp: "CS1" },
      before: v4(0),
      after: v4(cs1),
      counts: { marked: 1, default: 1 },
    },
    {
      what: "none, and no default",
      params: { rules: "EF udp" },
      before: v4(cs1),
      counts: { unchanged: 1, default: 1 },
    },
    {
      what: "ports of a fragment that has none",
      params: { rules: "EF tcp any 80" },
      before: ethernet(ipv4({ fragment: { offset: 8, more: false } }, tcp())),
      counts: { unchanged: 1, default: 1 },
    },
    { what: "any, of what is not IP", params: voice, before: ethernet(arp()), counts: { notIp: 1, "rule 3": 1 } },
  ],
  "priority and mark": [
    {
      what: "alone, of every packet",
      params: { priority: "6", mark: "0x100", mark_mask: "0xf00" },
      before: ethernet(arp()),
      priority: 6,
      mark: 0x100,
      counts: { unchanged: 1, tagged: 1, default: 1 },
    },
    {
      what: "bits outside the mask stay",
      params: { mark: "0xa5ff", mark_mask: "0xff00" },
      before: v4(0),
      context: { mark: 0x12345678, priority: 4 },
      mark: 0x1234a578,
      priority: 4,
      counts: { unchanged: 1, tagged: 1, default: 1 },
    },
    {
      what: "a mark without a mask changes nothing",
      params: { ...all, mark: "0xff" },
      before: v4(0),
      after: v4(ef),
      context: { mark: 0x12345678 },
      mark: 0x12345678,
      counts: marked,
    },
    {
      what: "bits can be cleared",
      params: { ...all, mark_mask: "0xffffffff", priority: "0" },
      before: v4(0),
      after: v4(ef),
      context: { mark: 0x12345678, priority: 7 },
      mark: 0,
      priority: 0,
      counts: { ...marked, tagged: 1 },
    },
    {
      what: "the largest of both",
      params: { mark: "0xffffffff", mark_mask: "0xffffffff", priority: "0xffffffff" },
      before: v4(0),
      mark: 0xffffffff,
      priority: 0xffffffff,
      counts: { unchanged: 1, tagged: 1, default: 1 },
    },
    {
      what: "also of what had the code point",
      params: { ...all, priority: "6" },
      before: v4(ef),
      priority: 6,
      counts: { already: 1, tagged: 1, default: 1 },
    },
    {
      what: "not of what a rule keeps",
      params: { ...voice, priority: "6" },
      before: ethernet(ipv6({}, icmpv6())),
      counts: { unchanged: 1, "rule 2": 1 },
    },
    {
      what: "not of what no rule matches",
      params: { rules: "EF udp", priority: "6" },
      before: v4(0),
      counts: { unchanged: 1, default: 1 },
    },
  ],
};

for (const [table, rows] of Object.entries(tables))
  for (const { what, params = all, direction = "egress", before, after = before, context, ...then } of rows)
    test(`${table}: ${what}`, () => {
      using lab = laboratory();
      const chain = lab.chain([{ program: "mark-dscp", entry: `mark_${direction}`, params }]);
      const result = chain.pass(before, context);
      assert.is(result.verdict, next);
      assert.equal(result.packet, after);
      assert.is(result.context.mark, then.mark ?? context?.mark ?? 0);
      assert.is(result.context.priority, then.priority ?? context?.priority ?? 0);
      const words = chain.members[0]?.totals("markings") ?? [];
      assert.equal(readMarkings(words, direction), then.counts);
      assert.equal(readMarkings(words, direction === "egress" ? "ingress" : "egress"), {});
    });

test("from any code point, with any ECN bits: those stay, and the checksum is right", () => {
  using lab = laboratory();
  for (const wanted of [0, 1, 31, 46, 63]) {
    const chain = lab.chain([{ program: "mark-dscp", entry: "mark_egress", params: { dscp: String(wanted) } }]);
    for (let tos = 0; tos < 256; tos++) {
      const becomes = (wanted << 2) | (tos & 3);
      assert.equal(chain.pass(v4(tos)).packet, v4(becomes), `IPv4, ${tos} to ${becomes}`);
      assert.equal(chain.pass(v6(tos)).packet, v6(becomes), `IPv6, ${tos} to ${becomes}`);
    }
  }
});

test("an IPv4 checksum at the edges of one's complement stays right", () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "mark-dscp", entry: "mark_egress", params: all }]);
  // Addresses that go through all the sums around 0 and 0xffff.
  for (let low = 0; low < 256; low++)
    for (const high of [0x4f, 0x50, 0xb1, 0xb2, 0xb3]) {
      const fields = { source: `10.0.${high}.${low}` };
      const packet = (tos: number) => ethernet(ipv4({ ...fields, tos }, tcp()));
      assert.equal(chain.pass(packet(0)).packet, packet(ef));
    }
});

test("cut short anywhere, a packet passes, with no byte changed but its own", () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "mark-dscp", entry: "mark_egress", params: all }]);
  for (const of of [
    (tos: number) => ethernet(vlan(7, ipv4({ tos, options: Buffer.alloc(8, 1) }, tcp()))),
    (tos: number) => ethernet(vlan(7, vlan(8, ipv6({ tos }, extension("hopByHop", udp()))))),
  ])
    for (let length = 15; length <= of(0).length; length++) {
      const result = chain.pass(of(0).subarray(0, length));
      assert.is(result.verdict, next);
      const either = [of(0), of(ef)].some((whole) => whole.subarray(0, length).equals(result.packet));
      assert.ok(either, `${length} bytes`);
    }
});

test.run();
