// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseIpv6 } from "../plugin/catalog/address.ts";
import { laboratory } from "./laboratory.ts";
import { readGuarded } from "./layout.ts";
import {
  type ArpFields,
  arp,
  authentication,
  discovery,
  ethernet,
  extension,
  fragment6,
  type Ipv4Fields,
  type Ipv6Fields,
  icmp,
  icmpv6,
  ipv4,
  ipv6,
  type Network,
  other,
  protocol,
  type Transport,
  tcp,
  udp,
  vlan,
} from "./packets.ts";

const own = {
  mac: "02:00:00:00:00:01",
  four: "10.0.0.1",
  six: "2001:db8::1",
  /** Made of the MAC. */
  local: "fe80::ff:fe00:1",
};
const others = { mac: "02:00:00:00:00:99", four: "10.0.0.99", six: "2001:db8::99", local: "fe80::1" };

interface Row {
  what: string;
  packet: Buffer;
  params?: Record<string, string>;
  context?: { gsoSize?: number; gsoSegs?: number };
  /** The one counter that counted. Those that begin with `passed` let the packet through. */
  counts: string;
}

const frame = (payload: Network, from = own.mac) => ethernet(payload, undefined, from);
const four = (fields: Ipv4Fields, payload: Transport = tcp()) => frame(ipv4({ source: own.four, ...fields }, payload));
const six = (fields: Ipv6Fields, payload: Transport = tcp()) => frame(ipv6({ source: own.six, ...fields }, payload));
const asked = (fields: ArpFields) => frame(arp({ senderMac: own.mac, sender: own.four, ...fields }));

const bytes6 = (address: string) => parseIpv6(address) ?? Buffer.alloc(0);
/** An option of neighbour discovery: 1 is the source's link-layer address, 2 the target's. */
const option = (type: number, mac = own.mac, length = 1) =>
  Buffer.concat([Buffer.from([type, length]), Buffer.from(mac.replaceAll(":", ""), "hex")]);
const solicited = (target: string) =>
  `ff02::1:ff${bytes6(target).toString("hex", 13, 14)}:${bytes6(target).toString("hex", 14)}`;

interface Message extends Ipv6Fields {
  target?: string;
  options?: Buffer[];
  code?: number;
}
const message = (type: number, { target, options = [], code = 0 }: Message) =>
  protocol(
    58,
    Buffer.concat([Buffer.from([type, code]), Buffer.alloc(6), target ? bytes6(target) : Buffer.alloc(0), ...options]),
  );
const discover = (type: number, fields: Message) =>
  six({ hopLimit: 255, destination: "ff02::1", ...fields }, message(type, fields));
const duplicates = (target: string, fields: Message = {}) =>
  discover(discovery.solicitation, { source: "::", destination: solicited(target), target, ...fields });

const tables: Record<string, Row[]> = {
  MAC: [
    { what: "the pod's", packet: four({}), counts: "passed_ipv4" },
    { what: "another's", packet: frame(ipv4({ source: own.four }, tcp()), others.mac), counts: "dropped_mac" },
    { what: "another's, with ARP", packet: frame(arp(), others.mac), counts: "dropped_mac" },
    { what: "another's, malformed", packet: frame(ipv4({ version: 5 }, tcp()), others.mac), counts: "dropped_mac" },
    { what: "one bit beside it", packet: frame(ipv6({}, tcp()), "02:00:00:00:00:03"), counts: "dropped_mac" },
    {
      what: "none, where the device has no header",
      packet: frame(ipv4({ source: own.four }, tcp()), others.mac),
      params: { mac: "00:00:00:00:00:00" },
      counts: "passed_ipv4",
    },
  ],
  IPv4: [
    { what: "UDP", packet: four({}, udp()), counts: "passed_ipv4" },
    { what: "any protocol", packet: four({}, protocol(47)), counts: "passed_ipv4" },
    { what: "from another", packet: four({ source: others.four }), counts: "dropped_address" },
    { what: "from another, ICMP", packet: four({ source: others.four }, icmp()), counts: "dropped_address" },
    { what: "from a second address", packet: four({ source: "10.0.0.7" }), counts: "passed_ipv4" },
    { what: "from nobody", packet: four({ source: "0.0.0.0" }), counts: "dropped_address" },
    { what: "from everybody", packet: four({ source: "255.255.255.255" }), counts: "dropped_address" },
    { what: "with options", packet: four({ options: Buffer.alloc(8, 1) }), counts: "passed_ipv4" },
    {
      what: "with options, from another",
      packet: four({ source: others.four, options: Buffer.alloc(8, 1) }),
      counts: "dropped_address",
    },
    {
      what: "a later fragment from another",
      packet: four({ source: others.four, fragment: { offset: 8, more: false } }),
      counts: "dropped_address",
    },
    {
      what: "from a prefix of also_allow",
      packet: four({ source: "192.168.5.6" }),
      params: { also_allow: "192.168.0.0/16" },
      counts: "passed_ipv4",
    },
    {
      what: "just outside of it",
      packet: four({ source: "192.169.0.1" }),
      params: { also_allow: "192.168.0.0/16" },
      counts: "dropped_address",
    },
    {
      what: "beyond 64 KiB, where the header has no length",
      packet: (() => {
        const packet = four({}, tcp({}, Buffer.alloc(2000)));
        packet.writeUInt16BE(0, 16);
        return packet;
      })(),
      context: { gsoSize: 1000, gsoSegs: 2 },
      counts: "passed_ipv4",
    },
    {
      what: "without a length",
      packet: (() => {
        const packet = four({}, tcp());
        packet.writeUInt16BE(0, 16);
        return packet;
      })(),
      counts: "dropped_malformed",
    },
    {
      what: "ports behind the end of a first fragment",
      packet: (() => {
        const packet = four({ fragment: { offset: 0, more: true } }, udp());
        packet.writeUInt16BE(20, 16);
        return packet;
      })(),
      counts: "dropped_malformed",
    },
  ],
  IPv6: [
    { what: "UDP", packet: six({}, udp()), counts: "passed_ipv6" },
    { what: "from another", packet: six({ source: others.six }), counts: "dropped_address" },
    { what: "an echo", packet: six({}, icmpv6()), counts: "passed_ipv6" },
    { what: "an echo from another", packet: six({ source: others.six }, icmpv6()), counts: "dropped_address" },
    { what: "from nobody", packet: six({ source: "::" }), counts: "dropped_address" },
    { what: "from nobody, an echo", packet: six({ source: "::" }, icmpv6()), counts: "dropped_address" },
    { what: "from its link-local address", packet: six({ source: own.local }), counts: "passed_ipv6" },
    { what: "from another's", packet: six({ source: others.local }), counts: "dropped_address" },
    {
      what: "from any link-local address",
      packet: six({ source: others.local }),
      params: { link_local: "any" },
      counts: "passed_ipv6",
    },
    {
      what: "fe80::/10 beyond its /64",
      packet: six({ source: "fe80:1::1" }),
      params: { link_local: "any" },
      counts: "dropped_address",
    },
    { what: "its IPv4 address, mapped", packet: six({ source: "::ffff:10.0.0.1" }), counts: "dropped_address" },
    { what: "behind extension headers", packet: six({}, extension("hopByHop", tcp())), counts: "passed_ipv6" },
    {
      what: "behind extension headers, from another",
      packet: six({ source: others.six }, extension("routing", authentication(tcp()))),
      counts: "dropped_address",
    },
    {
      what: "a later fragment from another",
      packet: six({ source: others.six }, fragment6({ offset: 8, more: false }, tcp())),
      counts: "dropped_address",
    },
    {
      what: "from a prefix of also_allow",
      packet: six({ source: "2001:db8:7::5" }),
      params: { also_allow: "10.9.0.0/16, 2001:db8:7::/64" },
      counts: "passed_ipv6",
    },
    { what: "a listener report", packet: six({ source: own.local }, icmpv6(143)), counts: "passed_ipv6" },
    {
      what: "one from nobody, behind its router alert",
      packet: six({ source: "::" }, extension("hopByHop", icmpv6(143))),
      counts: "passed_ipv6",
    },
    { what: "one from another", packet: six({ source: others.local }, icmpv6(143)), counts: "dropped_address" },
  ],
  ARP: [
    { what: "asks", packet: asked({}), counts: "passed_arp" },
    { what: "answers", packet: asked({ operation: 2 }), counts: "passed_arp" },
    { what: "probes", packet: asked({ sender: "0.0.0.0" }), counts: "passed_arp" },
    {
      what: "answers for nobody",
      packet: asked({ operation: 2, sender: "0.0.0.0" }),
      counts: "dropped_neighbour",
    },
    { what: "asks as another", packet: asked({ sender: others.four }), counts: "dropped_neighbour" },
    {
      what: "answers as another",
      packet: asked({ operation: 2, sender: others.four }),
      counts: "dropped_neighbour",
    },
    { what: "with another MAC inside", packet: asked({ senderMac: others.mac }), counts: "dropped_neighbour" },
    {
      what: "probes with another MAC inside",
      packet: asked({ senderMac: others.mac, sender: "0.0.0.0" }),
      counts: "dropped_neighbour",
    },
    { what: "of another kind", packet: asked({ operation: 3 }), counts: "dropped_malformed" },
    { what: "cut short", packet: asked({}).subarray(0, 14 + 27), counts: "dropped_malformed" },
    {
      what: "for a prefix of also_allow",
      packet: asked({ operation: 2, sender: "192.168.1.1" }),
      params: { also_allow: "192.168.0.0/16" },
      counts: "passed_arp",
    },
  ],
  "neighbour discovery": [
    {
      what: "asks",
      packet: discover(discovery.solicitation, { target: others.six, options: [option(1)] }),
      counts: "passed_discovery",
    },
    {
      what: "asks from its link-local address",
      packet: discover(discovery.solicitation, { source: own.local, target: others.local, options: [option(1)] }),
      counts: "passed_discovery",
    },
    {
      what: "asks, behind an extension header",
      packet: six(
        { hopLimit: 255 },
        extension("destination", message(discovery.solicitation, { target: others.six, options: [option(1)] })),
      ),
      counts: "passed_discovery",
    },
    {
      what: "asks as another",
      packet: discover(discovery.solicitation, { source: others.six, target: own.six }),
      counts: "dropped_address",
    },
    {
      what: "asks with another MAC",
      packet: discover(discovery.solicitation, { target: others.six, options: [option(1, others.mac)] }),
      counts: "dropped_neighbour",
    },
    {
      what: "asks with another MAC behind an option that is not known",
      packet: discover(discovery.solicitation, { target: others.six, options: [option(14), option(1, others.mac)] }),
      counts: "dropped_neighbour",
    },
    {
      what: "asks with a MAC of two units",
      packet: discover(discovery.solicitation, {
        target: others.six,
        options: [option(1, own.mac, 2), Buffer.alloc(8)],
      }),
      counts: "dropped_neighbour",
    },
    {
      what: "answers",
      packet: discover(discovery.advertisement, { target: own.six, options: [option(2)] }),
      counts: "passed_discovery",
    },
    {
      what: "answers for its link-local address",
      packet: discover(discovery.advertisement, { target: own.local, options: [option(2)] }),
      counts: "passed_discovery",
    },
    {
      what: "answers for another",
      packet: discover(discovery.advertisement, { target: others.six, options: [option(2)] }),
      counts: "dropped_neighbour",
    },
    {
      what: "answers for its router's link-local address",
      packet: discover(discovery.advertisement, { source: own.local, target: others.local, options: [option(2)] }),
      counts: "dropped_neighbour",
    },
    {
      what: "answers with another MAC",
      packet: discover(discovery.advertisement, { target: own.six, options: [option(2, others.mac)] }),
      counts: "dropped_neighbour",
    },
    {
      what: "answers from nobody",
      packet: discover(discovery.advertisement, { source: "::", target: own.six }),
      counts: "dropped_address",
    },
    { what: "looks for duplicates", packet: duplicates(own.six), counts: "passed_discovery" },
    {
      what: "looks for duplicates, with a nonce",
      packet: duplicates(own.local, { options: [option(14)] }),
      counts: "passed_discovery",
    },
    { what: "of another's address", packet: duplicates(others.six), counts: "dropped_neighbour" },
    { what: "with its MAC", packet: duplicates(own.six, { options: [option(1)] }), counts: "dropped_neighbour" },
    { what: "to all", packet: duplicates(own.six, { destination: "ff02::1" }), counts: "dropped_malformed" },
    {
      what: "looks for routers",
      packet: discover(discovery.routerSolicitation, { source: own.local, options: [option(1)] }),
      counts: "passed_discovery",
    },
    {
      what: "looks for routers, from nobody",
      packet: discover(discovery.routerSolicitation, { source: "::" }),
      counts: "passed_discovery",
    },
    {
      what: "looks for routers with another MAC",
      packet: discover(discovery.routerSolicitation, { source: own.local, options: [option(1, others.mac)] }),
      counts: "dropped_neighbour",
    },
    { what: "is no router", packet: discover(134, { source: own.local }), counts: "dropped_router" },
    { what: "redirects nobody", packet: discover(137, { source: own.local }), counts: "dropped_router" },
    { what: "queries no listeners", packet: six({ source: own.local }, icmpv6(130)), counts: "dropped_router" },
    {
      what: "is no router behind an extension header either",
      packet: six({ source: own.local, hopLimit: 255 }, extension("destination", icmpv6(134))),
      counts: "dropped_router",
    },
    {
      what: "has a hop limit of 255",
      packet: discover(discovery.advertisement, { target: own.six, hopLimit: 254 }),
      counts: "dropped_malformed",
    },
    {
      what: "has code 0",
      packet: discover(discovery.advertisement, { target: own.six, code: 1 }),
      counts: "dropped_malformed",
    },
    {
      what: "has a whole target",
      packet: discover(discovery.advertisement, { target: own.six }).subarray(0, 14 + 40 + 23),
      counts: "dropped_malformed",
    },
    {
      what: "has no option of length 0",
      packet: discover(discovery.advertisement, { target: own.six, options: [option(2, own.mac, 0)] }),
      counts: "dropped_malformed",
    },
    {
      what: "has no option past its end",
      packet: discover(discovery.advertisement, { target: own.six, options: [option(14, own.mac, 2)] }),
      counts: "dropped_malformed",
    },
    {
      what: "has eight options at most",
      packet: discover(discovery.advertisement, { target: own.six, options: Array(8).fill(option(14)) }),
      counts: "passed_discovery",
    },
    {
      what: "and not nine",
      packet: discover(discovery.advertisement, { target: own.six, options: Array(9).fill(option(14)) }),
      counts: "dropped_malformed",
    },
    {
      what: "is no fragment",
      packet: six(
        { hopLimit: 255 },
        fragment6({ offset: 0, more: true }, message(discovery.advertisement, { target: own.six })),
      ),
      counts: "dropped_malformed",
    },
  ],
  DHCP: [
    {
      what: "a client that has no address yet",
      packet: four({ source: "0.0.0.0", destination: "255.255.255.255" }, udp({ source: 68, destination: 67 })),
      counts: "passed_dhcp",
    },
    {
      what: "none, where it is denied",
      packet: four({ source: "0.0.0.0", destination: "255.255.255.255" }, udp({ source: 68, destination: 67 })),
      params: { dhcp: "deny" },
      counts: "dropped_dhcp",
    },
    {
      what: "to one server",
      packet: four({ source: "0.0.0.0", destination: "10.0.0.2" }, udp({ source: 68, destination: 67 })),
      counts: "dropped_address",
    },
    {
      what: "to another port",
      packet: four({ source: "0.0.0.0", destination: "255.255.255.255" }, udp({ source: 68, destination: 53 })),
      counts: "dropped_address",
    },
    { what: "a renewal", packet: four({}, udp({ source: 68, destination: 67 })), counts: "passed_ipv4" },
    {
      what: "a renewal as another",
      packet: four({ source: others.four }, udp({ source: 68, destination: 67 })),
      counts: "dropped_address",
    },
    { what: "a server", packet: four({}, udp({ source: 67, destination: 68 })), counts: "dropped_dhcp" },
    { what: "a server from another port", packet: four({}, udp({ destination: 68 })), counts: "dropped_dhcp" },
    {
      what: "a server in fragments",
      packet: four({ fragment: { offset: 0, more: true } }, udp({ source: 67, destination: 68 })),
      counts: "dropped_dhcp",
    },
    {
      what: "a client of DHCPv6",
      packet: six({ source: own.local, destination: "ff02::1:2" }, udp({ source: 546, destination: 547 })),
      counts: "passed_ipv6",
    },
    {
      what: "none, where it is denied",
      packet: six({ source: own.local, destination: "ff02::1:2" }, udp({ source: 546, destination: 547 })),
      params: { dhcp: "deny" },
      counts: "dropped_dhcp",
    },
    { what: "a server of DHCPv6", packet: six({}, udp({ source: 547, destination: 546 })), counts: "dropped_dhcp" },
    {
      what: "a TCP port of the same number",
      packet: four({}, tcp({ source: 67, destination: 68 })),
      counts: "passed_ipv4",
    },
  ],
  "VLAN tags": [
    { what: "one", packet: frame(vlan(7, ipv4({ source: own.four }, tcp()))), counts: "dropped_vlan" },
    { what: "of a priority", packet: frame(vlan(0, ipv4({ source: own.four }, tcp()))), counts: "dropped_vlan" },
    {
      what: "checked",
      packet: frame(vlan(7, ipv4({ source: own.four }, tcp()))),
      params: { vlan: "check" },
      counts: "passed_ipv4",
    },
    {
      what: "checked, two",
      packet: frame(vlan(7, vlan(8, ipv6({ source: others.six }, tcp())), 0x88a8)),
      params: { vlan: "check" },
      counts: "dropped_address",
    },
    {
      what: "checked, ARP",
      packet: frame(vlan(7, arp({ senderMac: own.mac, sender: others.four }))),
      params: { vlan: "check" },
      counts: "dropped_neighbour",
    },
    {
      what: "checked, discovery",
      packet: frame(
        vlan(7, ipv6({ source: own.six, hopLimit: 255 }, message(discovery.advertisement, { target: others.six }))),
      ),
      params: { vlan: "check" },
      counts: "dropped_neighbour",
    },
  ],
  rest: [
    { what: "LLDP", packet: frame(other()), counts: "dropped_protocol" },
    { what: "a bridge's own frame", packet: frame(other(0x0026)), counts: "dropped_protocol" },
    { what: "RARP", packet: frame(other(0x8035)), counts: "dropped_protocol" },
    { what: "IPv4 of version 5", packet: four({ version: 5 }), counts: "dropped_malformed" },
    { what: "IPv6 of version 4", packet: six({ version: 4 }), counts: "dropped_malformed" },
    {
      what: "an Ethernet header that could be an IP header",
      packet: ethernet(ipv4({ source: own.four }, tcp()), "45:00:00:00:00:02", own.mac),
      counts: "passed_ipv4",
    },
    {
      what: "the same, from another",
      packet: ethernet(ipv4({ source: others.four }, tcp()), "45:00:00:00:00:02", own.mac),
      counts: "dropped_address",
    },
  ],
};

const given = { addresses: `${own.four}, 10.0.0.7, ${own.six}`, mac: own.mac };

for (const [table, rows] of Object.entries(tables))
  for (const { what, packet, params = {}, context, counts } of rows)
    test(`${table}: ${what}: ${counts}`, () => {
      using lab = laboratory();
      const chain = lab.chain([{ program: "guard", entry: "guard", params: { ...given, ...params } }]);
      const verdict = chain.run(packet, context);
      assert.equal(readGuarded(chain.members[0]?.totals("packets") ?? []), { [counts]: 1 });
      assert.is(verdict, counts.startsWith("passed") ? -1 : 2);
    });

test("sixteen addresses and sixteen prefixes, of which the last count as well", () => {
  using lab = laboratory();
  const list = (prefix: string) => Array.from({ length: 16 }, (_, index) => `${prefix}${index + 1}`).join(", ");
  const chain = lab.chain([
    {
      program: "guard",
      entry: "guard",
      params: { mac: own.mac, addresses: list("10.7.0."), also_allow: list("2001:db8:7::") },
    },
  ]);
  assert.is(chain.run(four({ source: "10.7.0.16" })), -1);
  assert.is(chain.run(six({ source: "2001:db8:7::16" })), -1);
  assert.is(chain.run(four({ source: "10.7.0.17" })), 2);
});

test("cut short anywhere, it is dropped or judged as the whole", () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "guard", entry: "guard", params: given }]);
  const claim = discover(discovery.advertisement, { target: others.six, options: [option(2)] });
  for (let length = 54; length <= claim.length; length++)
    assert.is(chain.run(claim.subarray(0, length)), 2, `${length}`);
  const spoofed = asked({ sender: others.four });
  for (let length = 15; length <= spoofed.length; length++) assert.is(chain.run(spoofed.subarray(0, length)), 2);
});

test.run();
