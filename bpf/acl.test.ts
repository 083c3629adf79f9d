// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { prefixKey } from "../plugin/catalog/address.ts";
import type { Direction } from "../plugin/kernel/port.ts";
import { type Chain, type Laboratory, laboratory } from "./laboratory.ts";
import { readDecisions } from "./layout.ts";
import {
  arp,
  authentication,
  discovery,
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
const shot = 2;

interface Row {
  what: string;
  rules?: string;
  default?: "allow" | "deny";
  /** Prefixes of the deny list, which is on where there are any (also where there are none, in `[]`). */
  denied?: string[];
  direction?: Direction;
  packet: Buffer;
  verdict: "pass" | "drop";
  /** `rule 0`, ..., or what decided where no rule did; "nothing" where the program takes itself out. */
  by: string;
}

const web = ethernet(ipv4({}, tcp()));
const later4 = ethernet(ipv4({ fragment: { offset: 8, more: true } }, tcp()));
const first4 = ethernet(ipv4({ fragment: { offset: 0, more: true } }, tcp()));
const later6 = ethernet(ipv6({}, fragment6({ offset: 8, more: false }, tcp())));
const first6 = ethernet(ipv6({}, fragment6({ offset: 0, more: true }, tcp())));
const solicitation = (hopLimit: number) => ethernet(ipv6({ hopLimit }, icmpv6(discovery.solicitation)));

const tables: Record<string, Row[]> = {
  default: [
    { what: "allow, without rules", packet: web, verdict: "pass", by: "nothing" },
    { what: "allow, what no rule matches", rules: "deny udp", packet: web, verdict: "pass", by: "default" },
    { what: "deny", default: "deny", packet: web, verdict: "drop", by: "default" },
    { what: "deny, on egress", default: "deny", direction: "egress", packet: web, verdict: "drop", by: "default" },
    { what: "deny, IPv6", default: "deny", packet: ethernet(ipv6({}, tcp())), verdict: "drop", by: "default" },
    { what: "deny, neither IP nor ARP", default: "deny", packet: ethernet(other()), verdict: "drop", by: "default" },
  ],
  order: [
    { what: "the first match decides", rules: "allow tcp; deny any", packet: web, verdict: "pass", by: "rule 0" },
    { what: "also the other way", rules: "deny any; allow tcp", packet: web, verdict: "drop", by: "rule 0" },
    {
      what: "the last of 32",
      rules: `${"deny udp;".repeat(31)} deny tcp`,
      packet: web,
      verdict: "drop",
      by: "rule 31",
    },
    {
      what: "only rules that were given count",
      rules: "deny udp",
      default: "allow",
      packet: ethernet(other()),
      verdict: "pass",
      by: "default",
    },
  ],
  prefix: [
    { what: "the source on ingress", rules: "deny 10.0.0.1", packet: web, verdict: "drop", by: "rule 0" },
    { what: "not the destination", rules: "deny 10.0.0.2", packet: web, verdict: "pass", by: "default" },
    {
      what: "the destination on egress",
      rules: "deny 10.0.0.2",
      direction: "egress",
      packet: web,
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "not the source",
      rules: "deny 10.0.0.1",
      direction: "egress",
      packet: web,
      verdict: "pass",
      by: "default",
    },
    { what: "within a /8", rules: "deny 10.0.0.0/8", packet: web, verdict: "drop", by: "rule 0" },
    { what: "just outside a /31", rules: "deny 10.0.0.2/31", packet: web, verdict: "pass", by: "default" },
    { what: "all of IPv4", rules: "deny 0.0.0.0/0", packet: web, verdict: "drop", by: "rule 0" },
    {
      what: "all of IPv4 is not IPv6",
      rules: "deny 0.0.0.0/0",
      packet: ethernet(ipv6({}, tcp())),
      verdict: "pass",
      by: "default",
    },
    { what: "all of IPv6 is not IPv4", rules: "deny ::/0", packet: web, verdict: "pass", by: "default" },
    {
      what: "an IPv6 /32",
      rules: "deny 2001:db8::/32",
      packet: ethernet(ipv6({}, tcp())),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "an IPv6 /64",
      rules: "deny 2001:db8::/64",
      packet: ethernet(ipv6({ source: "2001:db8::ffff:0:0:1" }, tcp())),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "just outside an IPv6 /65",
      rules: "deny 2001:db8::/65",
      packet: ethernet(ipv6({ source: "2001:db8::8000:0:0:1" }, tcp())),
      verdict: "pass",
      by: "default",
    },
    {
      what: "a whole IPv6 address, but for its last bit",
      rules: "deny 2001:db8::",
      packet: ethernet(ipv6({}, tcp())),
      verdict: "pass",
      by: "default",
    },
    {
      what: "a v4-mapped address in an IPv6 header is no IPv4",
      rules: "deny 10.0.0.1",
      packet: ethernet(ipv6({ source: "::ffff:10.0.0.1" }, tcp())),
      verdict: "pass",
      by: "default",
    },
    { what: "any", rules: "deny any", packet: ethernet(other()), verdict: "drop", by: "rule 0" },
  ],
  direction: [
    { what: "an ingress rule", rules: "deny ingress tcp", packet: web, verdict: "drop", by: "rule 0" },
    {
      what: "not on egress",
      rules: "deny ingress tcp",
      direction: "egress",
      packet: web,
      verdict: "pass",
      by: "default",
    },
    {
      what: "an egress rule",
      rules: "deny egress tcp",
      direction: "egress",
      packet: web,
      verdict: "drop",
      by: "rule 0",
    },
  ],
  protocol: [
    { what: "tcp is not udp", rules: "deny udp", packet: web, verdict: "pass", by: "default" },
    { what: "icmp", rules: "deny icmp", packet: ethernet(ipv4({}, icmp())), verdict: "drop", by: "rule 0" },
    { what: "icmpv6", rules: "deny icmpv6", packet: ethernet(ipv6({}, icmpv6())), verdict: "drop", by: "rule 0" },
    {
      what: "a number",
      rules: "deny proto 47",
      packet: ethernet(ipv4({}, protocol(47))),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "number 0 is not what has no protocol",
      rules: "deny proto 0",
      packet: ethernet(other()),
      verdict: "pass",
      by: "default",
    },
    {
      what: "behind extension headers",
      rules: "deny tcp 80",
      packet: ethernet(ipv6({}, extension("hopByHop", authentication(extension("destination", tcp())), 16))),
      verdict: "drop",
      by: "rule 0",
    },
  ],
  ports: [
    { what: "the first of a range", rules: "deny tcp any 80-90", packet: web, verdict: "drop", by: "rule 0" },
    { what: "the last", rules: "deny tcp any 70-80", packet: web, verdict: "drop", by: "rule 0" },
    { what: "below", rules: "deny tcp any 81-90", packet: web, verdict: "pass", by: "default" },
    { what: "above", rules: "deny tcp any 0-79", packet: web, verdict: "pass", by: "default" },
    {
      what: "65535",
      rules: "deny tcp any 65535",
      packet: ethernet(ipv4({}, tcp({ destination: 65535 }))),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "0",
      rules: "deny tcp any 0",
      packet: ethernet(ipv4({}, tcp({ destination: 0 }))),
      verdict: "drop",
      by: "rule 0",
    },
    { what: "a source port", rules: "deny tcp sport 40000", packet: web, verdict: "drop", by: "rule 0" },
    {
      what: "a source port is not a destination",
      rules: "deny tcp sport 80",
      packet: web,
      verdict: "pass",
      by: "default",
    },
    { what: "both", rules: "deny tcp 80 sport 1-1023", packet: web, verdict: "pass", by: "default" },
    {
      what: "udp without a protocol",
      rules: "deny 53",
      packet: ethernet(ipv6({}, udp())),
      verdict: "drop",
      by: "rule 0",
    },
    { what: "sctp", rules: "deny sctp 3868", packet: ethernet(ipv4({}, sctp())), verdict: "drop", by: "rule 0" },
    {
      what: "icmp has none",
      rules: "deny 0-65535",
      packet: ethernet(ipv4({}, icmp())),
      verdict: "pass",
      by: "default",
    },
    {
      what: "behind IPv4 options",
      rules: "deny tcp 80",
      packet: ethernet(ipv4({ options: Buffer.alloc(40, 1) }, tcp())),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "behind two tags",
      rules: "deny tcp 10.0.0.1 80",
      packet: ethernet(vlan(7, vlan(8, ipv4({}, tcp())), 0x88a8)),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "where the destination MAC begins like IPv4",
      rules: "deny tcp 10.0.0.1 80",
      packet: ethernet(ipv4({}, tcp()), "45:00:00:00:00:02"),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "where the destination MAC begins like IPv6",
      rules: "deny tcp 2001:db8::1 80",
      packet: ethernet(ipv6({}, tcp()), "60:00:00:00:00:02"),
      verdict: "drop",
      by: "rule 0",
    },
  ],
  fragments: [
    { what: "the first has ports", rules: "deny tcp 80", packet: first4, verdict: "drop", by: "rule 0" },
    { what: "later ones have none", rules: "deny tcp 80", packet: later4, verdict: "pass", by: "default" },
    {
      what: "nor are they let in by a port",
      rules: "allow tcp 80",
      default: "deny",
      packet: later4,
      verdict: "drop",
      by: "default",
    },
    { what: "but they have addresses", rules: "deny tcp 10.0.0.1", packet: later4, verdict: "drop", by: "rule 0" },
    { what: "the first of IPv6", rules: "deny tcp 80", packet: first6, verdict: "drop", by: "rule 0" },
    { what: "a later one of IPv6", rules: "deny tcp 80; deny tcp", packet: later6, verdict: "drop", by: "rule 1" },
    {
      what: "one that is all there is of its packet",
      rules: "deny tcp 80",
      packet: ethernet(ipv6({}, fragment6({ offset: 0, more: false }, tcp()))),
      verdict: "drop",
      by: "rule 0",
    },
  ],
  neighbours: [
    { what: "ARP", default: "deny", rules: "deny any", packet: ethernet(arp()), verdict: "pass", by: "neighbour" },
    ...Object.entries(discovery).map(
      ([name, type]): Row => ({
        what: name,
        default: "deny",
        rules: "deny any; deny 2001:db8::/32",
        packet: ethernet(ipv6({ hopLimit: 255 }, icmpv6(type))),
        verdict: "pass",
        by: "neighbour",
      }),
    ),
    { what: "not from behind a router", default: "deny", packet: solicitation(254), verdict: "drop", by: "default" },
    {
      what: "a rule that names icmpv6",
      rules: "deny icmpv6",
      packet: solicitation(255),
      verdict: "drop",
      by: "rule 0",
    },
    {
      what: "a redirect is none",
      default: "deny",
      packet: ethernet(ipv6({ hopLimit: 255 }, icmpv6(137))),
      verdict: "drop",
      by: "default",
    },
    {
      what: "an echo is none",
      default: "deny",
      packet: ethernet(ipv6({ hopLimit: 255 }, icmpv6())),
      verdict: "drop",
      by: "default",
    },
  ],
  "deny list": [
    { what: "empty", denied: [], packet: web, verdict: "pass", by: "default" },
    { what: "the source on ingress", denied: ["10.0.0.1"], packet: web, verdict: "drop", by: "deny list" },
    { what: "not the destination", denied: ["10.0.0.2"], packet: web, verdict: "pass", by: "default" },
    {
      what: "the destination on egress",
      denied: ["10.0.0.2"],
      direction: "egress",
      packet: web,
      verdict: "drop",
      by: "deny list",
    },
    {
      what: "before any rule",
      rules: "allow any",
      denied: ["10.0.0.0/8"],
      packet: web,
      verdict: "drop",
      by: "deny list",
    },
    {
      what: "rules decide about the rest",
      rules: "allow tcp",
      denied: ["11.0.0.0/8"],
      packet: web,
      verdict: "pass",
      by: "rule 0",
    },
    {
      what: "and the default",
      default: "deny",
      denied: ["11.0.0.0/8"],
      packet: web,
      verdict: "drop",
      by: "default",
    },
    {
      what: "within a /8, beside longer ones",
      denied: ["10.0.0.0/8", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.0/24"],
      packet: web,
      verdict: "drop",
      by: "deny list",
    },
    { what: "just outside", denied: ["10.0.0.2/31", "10.0.0.0/32"], packet: web, verdict: "pass", by: "default" },
    { what: "all of IPv4", denied: ["0.0.0.0/0"], packet: web, verdict: "drop", by: "deny list" },
    { what: "all of IPv6 is not IPv4", denied: ["::/0"], packet: web, verdict: "pass", by: "default" },
    {
      what: "all of IPv4 is not IPv6",
      denied: ["0.0.0.0/0"],
      packet: ethernet(ipv6({}, tcp())),
      verdict: "pass",
      by: "default",
    },
    {
      what: "all of IPv6",
      denied: ["::/0"],
      packet: ethernet(ipv6({}, tcp())),
      verdict: "drop",
      by: "deny list",
    },
    {
      what: "an IPv6 /32",
      denied: ["2001:db8::/32"],
      packet: ethernet(ipv6({}, tcp())),
      verdict: "drop",
      by: "deny list",
    },
    {
      what: "a whole IPv6 address, on egress",
      denied: ["2001:db8::2"],
      direction: "egress",
      packet: ethernet(ipv6({}, udp())),
      verdict: "drop",
      by: "deny list",
    },
    {
      what: "a whole IPv6 address, but for its last bit",
      denied: ["2001:db8::"],
      packet: ethernet(ipv6({}, tcp())),
      verdict: "pass",
      by: "default",
    },
    {
      what: "a v4-mapped address in an IPv6 header is no IPv4",
      denied: ["10.0.0.1"],
      packet: ethernet(ipv6({ source: "::ffff:10.0.0.1" }, tcp())),
      verdict: "pass",
      by: "default",
    },
    {
      what: "behind two tags",
      denied: ["10.0.0.1"],
      packet: ethernet(vlan(7, vlan(8, ipv4({}, tcp())), 0x88a8)),
      verdict: "drop",
      by: "deny list",
    },
    {
      what: "IPv6 behind a tag and extension headers",
      denied: ["2001:db8::1"],
      packet: ethernet(vlan(7, ipv6({}, extension("hopByHop", tcp(), 16)))),
      verdict: "drop",
      by: "deny list",
    },
    { what: "a later fragment", denied: ["10.0.0.1"], packet: later4, verdict: "drop", by: "deny list" },
    { what: "a later fragment of IPv6", denied: ["2001:db8::1"], packet: later6, verdict: "drop", by: "deny list" },
    {
      what: "what has no ports",
      denied: ["10.0.0.1"],
      packet: ethernet(ipv4({}, protocol(47))),
      verdict: "drop",
      by: "deny list",
    },
    {
      what: "no neighbour discovery",
      denied: ["::/0"],
      packet: solicitation(255),
      verdict: "pass",
      by: "neighbour",
    },
    {
      what: "but what only looks like it",
      denied: ["::/0"],
      packet: solicitation(254),
      verdict: "drop",
      by: "deny list",
    },
    { what: "no ARP", denied: ["0.0.0.0/0", "::/0"], packet: ethernet(arp()), verdict: "pass", by: "neighbour" },
    {
      what: "nothing that is not IP",
      denied: ["0.0.0.0/0", "::/0"],
      packet: ethernet(other()),
      verdict: "pass",
      by: "default",
    },
  ],
  malformed: [
    {
      what: "IPv4 of version 5",
      rules: "allow any",
      packet: ethernet(ipv4({ version: 5 }, tcp())),
      verdict: "drop",
      by: "malformed",
    },
    {
      what: "IPv6 of version 4",
      rules: "allow any",
      packet: ethernet(ipv6({ version: 4 }, tcp())),
      verdict: "drop",
      by: "malformed",
    },
    {
      what: "a header of 4 words",
      rules: "allow any",
      packet: ethernet(ipv4({ ihl: 4 }, tcp())),
      verdict: "drop",
      by: "malformed",
    },
    {
      what: "options that are not there",
      rules: "allow any",
      packet: ethernet(ipv4({ ihl: 15 }, tcp())),
      verdict: "drop",
      by: "malformed",
    },
    {
      what: "nine extension headers",
      rules: "allow any",
      packet: ethernet(
        ipv6(
          {},
          [...Array(9)].reduce((inner) => extension("destination", inner), tcp()),
        ),
      ),
      verdict: "drop",
      by: "malformed",
    },
    {
      what: "eight are not",
      rules: "allow any",
      packet: ethernet(
        ipv6(
          {},
          [...Array(8)].reduce((inner) => extension("destination", inner), tcp()),
        ),
      ),
      verdict: "pass",
      by: "rule 0",
    },
    {
      what: "not even looked up in the deny list",
      denied: ["0.0.0.0/0"],
      packet: ethernet(ipv4({ version: 5 }, tcp())),
      verdict: "drop",
      by: "malformed",
    },
    {
      what: "not judged without rules",
      packet: ethernet(ipv4({ version: 5 }, tcp())),
      verdict: "pass",
      by: "nothing",
    },
  ],
};

function settings(rules: string | undefined, byDefault: string | undefined): Record<string, string> {
  return {
    ...(rules === undefined ? {} : { rules }),
    ...(byDefault === undefined ? {} : { default_action: byDefault }),
  };
}

for (const [table, rows] of Object.entries(tables))
  for (const { what, rules, default: byDefault, denied, direction = "ingress", packet, verdict, by } of rows)
    test(`${table}: ${what}: ${verdict}`, () => {
      using lab = laboratory();
      const params = { ...settings(rules, byDefault), ...(denied && { deny_list: "true" }) };
      const chain = lab.chain([{ program: "acl", entry: `acl_${direction}`, params }]);
      deny(lab, chain, denied ?? []);
      assert.is(chain.run(packet), verdict === "pass" ? next : shot);
      assert.is(
        readDecisions(chain.members[0]?.totals("decisions") ?? []),
        by === "nothing" ? "" : `1 ${by} ${direction}`,
      );
    });

/** Puts prefixes on the deny list. Returns how many packets each has dropped. */
function deny({ kernel }: Laboratory, chain: Chain, prefixes: string[]): () => number[] {
  const list = chain.members[0]?.stage.maps.find(({ name }) => name === "denied");
  if (!list) throw new Error("acl was loaded without its deny list");
  const keys = prefixes.map((prefix) => prefixKey.encode(prefix));
  for (const key of keys) kernel.updateMap(list.fd, key, Buffer.alloc(8));
  return () => keys.map((key) => Number(kernel.lookupMap(list.fd, key)?.readBigUInt64LE()));
}

test("deny list: the longest prefix counts what it drops, and a prefix taken off drops no more", () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "acl", entry: "acl_ingress", params: { deny_list: "true" } }]);
  const dropped = deny(lab, chain, ["10.0.0.0/8", "10.0.0.1"]);
  for (const source of ["10.0.0.1", "10.0.0.1", "10.0.0.3", "11.0.0.1"])
    assert.is(chain.run(ethernet(ipv4({ source }, tcp()))), source === "11.0.0.1" ? next : shot);
  assert.equal(dropped(), [1, 2]);
  const list = chain.members[0]?.stage.maps.find(({ name }) => name === "denied");
  for (const prefix of ["10.0.0.0/8", "10.0.0.1", "10.0.0.1"])
    lab.kernel.deleteFromMap(list?.fd ?? -1, prefixKey.encode(prefix));
  assert.is(chain.run(web), next);
});

test("cut short anywhere, a packet is judged as the whole one or dropped", () => {
  using lab = laboratory();
  const chain = lab.chain([
    { program: "acl", entry: "acl_ingress", params: { rules: "allow tcp 80", default_action: "deny" } },
  ]);
  // `least`: what must be there for the ports to be read. prog_test_run wants something behind the Ethernet header,
  // and a first IP header whole (`from`): tags hide the others.
  const packets = [
    { whole: web, from: 34, least: 14 + 20 + 4 },
    { whole: ethernet(ipv4({ options: Buffer.alloc(8, 1) }, tcp())), from: 34, least: 14 + 28 + 4 },
    { whole: ethernet(ipv6({}, tcp())), from: 54, least: 14 + 40 + 4 },
    {
      whole: ethernet(ipv6({}, extension("hopByHop", fragment6({ offset: 0, more: true }, tcp()), 16))),
      from: 54,
      least: 14 + 40 + 16 + 8 + 4,
    },
    { whole: ethernet(vlan(7, vlan(8, ipv4({}, tcp())))), from: 15, least: 14 + 8 + 20 + 4 },
    { whole: ethernet(vlan(7, ipv6({}, extension("routing", tcp(), 24)))), from: 15, least: 14 + 4 + 40 + 24 + 4 },
  ];
  for (const { whole, from, least } of packets)
    for (let length = from; length <= whole.length; length++)
      assert.is(
        chain.run(whole.subarray(0, length)),
        length < least ? shot : next,
        `${length} of ${whole.length} bytes`,
      );
});

test("no byte of a header, whatever its value, keeps the program from a verdict", () => {
  using lab = laboratory();
  const rules = "deny tcp 10.0.0.0/8 80";
  const chain = lab.chain([
    { program: "acl", entry: "acl_ingress", params: { rules, default_action: "allow", deny_list: "true" } },
  ]);
  deny(lab, chain, ["11.0.0.0/8", "2001:db8:8000::/33"]);
  const verdicts = new Set<number>();
  for (const whole of [web, ethernet(ipv6({}, extension("routing", tcp(), 16)))])
    for (let at = 12; at < whole.length; at++)
      for (const value of [0, 1, 4, 6, 44, 51, 60, 0x7f, 0x80, 0xff]) {
        const packet = Buffer.from(whole);
        packet[at] = value;
        verdicts.add(chain.run(packet));
      }
  assert.equal([...verdicts].sort(), [next, shot]);
});

test.run();
