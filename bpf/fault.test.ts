// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { readManifest } from "../plugin/catalog/manifest.ts";
import type { Direction } from "../plugin/kernel/port.ts";
import { type Chain, laboratory } from "./laboratory.ts";
import {
  arp,
  discovery,
  ethernet,
  extension,
  fragment6,
  icmp,
  icmpv6,
  internetChecksum,
  ipv4,
  ipv6,
  other,
  sctp,
  type TcpFields,
  type Transport,
  tcp,
  udp,
  vlan,
} from "./packets.ts";

const next = -1;
const shot = 2;
const redirect = 7;

const names = ["hit", "dropped", "reset", "not_reset", "corrupted_payload", "corrupted_header"] as const;

/** `struct done`, without what is 0: `1 hit ingress, 1 dropped ingress`. */
function read(chain: Chain): string {
  return (chain.members[0]?.totals("done") ?? [])
    .map((count, at) => ({
      count,
      text: `${count} ${names[at % names.length]} ${at < names.length ? "ingress" : "egress"}`,
    }))
    .filter(({ count }) => count > 0)
    .map(({ text }) => text)
    .join(", ");
}

function fault(lab: ReturnType<typeof laboratory>, params: Record<string, string>, direction: Direction = "ingress") {
  return lab.chain([{ program: "fault", entry: `fault_${direction}`, params }]);
}

// ---- which packets ----

const web = ethernet(ipv4({}, tcp()));
const cases: {
  what: string;
  packet: Buffer;
  params?: Record<string, string>;
  direction?: Direction;
  hit: boolean;
}[] = [
  { what: "without rules any", packet: web, hit: true },
  { what: "without rules, IPv6", packet: ethernet(ipv6({}, udp())), hit: true },
  { what: "behind a tag", packet: ethernet(vlan(7, ipv4({}, tcp()))), hit: true },
  { what: "a fragment", packet: ethernet(ipv4({ fragment: { offset: 9, more: false } }, tcp())), hit: true },
  { what: "a rule's port", packet: web, params: { rules: "deny tcp any 80" }, hit: true },
  { what: "another port", packet: web, params: { rules: "deny tcp any 81" }, hit: false },
  { what: "a rule's remote prefix", packet: web, params: { rules: "deny 10.0.0.1" }, hit: true },
  { what: "on egress", packet: web, params: { rules: "deny 10.0.0.1" }, direction: "egress", hit: false },
  { what: "what is spared before", packet: web, params: { rules: "allow tcp any 80; deny any" }, hit: false },
  { what: "ARP", packet: ethernet(arp()), params: { rules: "deny any" }, hit: false },
  { what: "neither IP nor ARP", packet: ethernet(other()), params: { rules: "deny any" }, hit: false },
  ...Object.entries(discovery).map(([what, type]) => ({
    what,
    packet: ethernet(ipv6({ hopLimit: 255 }, icmpv6(type))),
    params: { rules: "deny icmpv6" },
    hit: false,
  })),
  { what: "what cannot be read", packet: ethernet(ipv4({ ihl: 4 }, tcp())), hit: false },
];

for (const { what, packet, params = {}, direction = "ingress", hit } of cases)
  test(`${what}: ${hit ? "hit" : "spared"}`, () => {
    using lab = laboratory();
    const chain = fault(lab, { drop: "100%", ...params }, direction);
    assert.is(chain.run(packet), hit ? shot : next);
    assert.is(read(chain), hit ? `1 hit ${direction}, 1 dropped ${direction}` : "");
  });

test("without faults it takes itself out", () => {
  using lab = laboratory();
  const chain = fault(lab, { rules: "deny any" });
  assert.is(chain.run(web), next);
  assert.is(read(chain), "");
});

test("half of them", () => {
  using lab = laboratory();
  const chain = fault(lab, { drop: "50%" });
  let lost = 0;
  for (let i = 0; i < 1000; i++) lost += Number(chain.run(web) === shot);
  // Ten standard deviations.
  assert.ok(Math.abs(lost - 500) < 160, `${lost} of 1000`);
});

// ---- reset ----

const address = { IPv4: { a: "10.1.2.3", b: "10.4.5.6" }, IPv6: { a: "2001:db8::a:1", b: "2001:db8::b:2" } } as const;
type Family = keyof typeof address;
const families = ["IPv4", "IPv6"] as const;

/** From a to b, or back: the frame and what a checksum covers beside the segment. */
function between(family: Family, back: boolean) {
  const { a, b } = address[family];
  const [source, destination] = back ? [b, a] : [a, b];
  const wrap = (transport: Transport) =>
    family === "IPv4" ? ipv4({ source, destination }, transport) : ipv6({ source, destination }, transport);
  return {
    wrap,
    /** Fills in the transport's checksum; `partial`: the sum of the pseudo header alone, as a device expects it. */
    summed(transport: Transport, place: number, partial = false): Transport {
      const header = wrap({ ...transport, bytes: Buffer.alloc(0) }).bytes;
      const length = Buffer.alloc(8);
      length.writeUInt32BE(transport.bytes.length);
      length.writeUInt32BE(transport.protocol, 4);
      const pseudo = Buffer.concat([family === "IPv4" ? header.subarray(12, 20) : header.subarray(8, 40), length]);
      const bytes = Buffer.from(transport.bytes);
      const sum = partial
        ? ~internetChecksum(pseudo) & 0xffff
        : internetChecksum(Buffer.concat([pseudo, bytes, Buffer.alloc(bytes.length % 2)]));
      bytes.writeUInt16BE(sum, place);
      return { ...transport, bytes };
    },
  };
}

/** `ethernet()` of what goes back: its MACs the other way round. */
function mirrored(frame: Buffer): Buffer {
  return Buffer.concat([frame.subarray(6, 12), frame.subarray(0, 6), frame.subarray(12)]);
}

const questions: { what: string; fields: TcpFields; payload?: number; answer: TcpFields }[] = [
  {
    what: "data",
    fields: { sequence: 1000, acknowledgement: 0xfffffff0, flags: "PA" },
    payload: 333,
    answer: { flags: "R", sequence: 0xfffffff0 },
  },
  {
    what: "a SYN",
    fields: { sequence: 0xffffffff, flags: "SEC", options: Buffer.from("020405b401010101", "hex") },
    answer: { flags: "RA", acknowledgement: 0 },
  },
  {
    what: "a SYN with data",
    fields: { sequence: 7, flags: "S" },
    payload: 9,
    answer: { flags: "RA", acknowledgement: 17 },
  },
  {
    what: "a SYN-ACK",
    fields: { sequence: 7, acknowledgement: 8, flags: "SA" },
    answer: { flags: "R", sequence: 8 },
  },
  { what: "a FIN", fields: { sequence: 7, acknowledgement: 8, flags: "FA" }, answer: { flags: "R", sequence: 8 } },
];

for (const family of families)
  for (const { what, fields, payload = 0, answer } of questions)
    for (const partial of [false, true])
      test(`${family}: ${what}${partial ? ", its checksum not yet filled in," : ""} is turned into its reset`, () => {
        using lab = laboratory();
        const [there, back] = [between(family, false), between(family, true)];
        const ports = { source: 1111, destination: 2222 };
        const segment = there.summed(tcp({ ...ports, ...fields }, Buffer.alloc(payload, 0x5a)), 16, partial);
        const reset = tcp({ source: 2222, destination: 1111, window: 0, ...answer });
        for (const direction of ["ingress", "egress"] as const) {
          const chain = fault(lab, { reset: "100%", rules: "deny tcp" }, direction);
          const passed = chain.pass(ethernet(there.wrap(segment)));
          assert.is(passed.verdict, redirect);
          const expected = mirrored(ethernet(back.wrap(back.summed(reset, 16, partial))));
          assert.is(passed.packet.toString("hex"), expected.toString("hex"));
          assert.is(read(chain), `1 hit ${direction}, 1 reset ${direction}`);
        }
      });

test("behind a tag, the tag stays", () => {
  using lab = laboratory();
  const [there, back] = [between("IPv4", false), between("IPv4", true)];
  const segment = there.summed(tcp({ acknowledgement: 5, flags: "PA" }, Buffer.alloc(99)), 16);
  const passed = fault(lab, { reset: "100%" }).pass(ethernet(vlan(7, there.wrap(segment))));
  const reset = back.summed(tcp({ source: 80, destination: 40000, window: 0, flags: "R", sequence: 5 }), 16);
  assert.is(passed.packet.toString("hex"), mirrored(ethernet(vlan(7, back.wrap(reset)))).toString("hex"));
});

for (const { what, packet, done } of [
  { what: "a reset", packet: ethernet(ipv4({}, tcp({ flags: "R" }))), done: "" },
  { what: "UDP", packet: ethernet(ipv4({}, udp())), done: "" },
  {
    what: "IPv4 options",
    packet: ethernet(ipv4({ options: Buffer.alloc(8, 1) }, tcp())),
    done: ", 1 not_reset ingress",
  },
  {
    what: "extension headers",
    packet: ethernet(ipv6({}, extension("hopByHop", tcp()))),
    done: ", 1 not_reset ingress",
  },
  {
    what: "a fragment",
    packet: ethernet(ipv6({}, fragment6({ offset: 0, more: true }, tcp()))),
    done: ", 1 not_reset ingress",
  },
])
  test(`${what} is not answered, and passes as it is`, () => {
    using lab = laboratory();
    const chain = fault(lab, { reset: "100%" });
    const passed = chain.pass(packet);
    assert.is(passed.verdict, next);
    assert.is(passed.packet.toString("hex"), packet.toString("hex"));
    assert.is(read(chain), `1 hit ingress${done}`);
  });

// ---- corruption ----

/** Where a and b differ: bits, counted from the frame's beginning. */
function turned(a: Buffer, b: Buffer): number[] {
  assert.is(b.length, a.length);
  return [...a].flatMap((byte, at) =>
    [...Array(8).keys()].filter((bit) => ((byte ^ (b[at] ?? 0)) >> bit) & 1).map((bit) => at * 8 + bit),
  );
}

const rubble = Buffer.alloc(57, 0xa5);
for (const family of families) {
  const { wrap, summed } = between(family, false);
  const ip = 14 + (family === "IPv4" ? 20 : 40);
  const six = family === "IPv6";
  const options = Buffer.alloc(12, 1);
  /** What is turned in the header: IPv4's checksum or IPv6's version, in bytes of the frame. */
  const header = six ? [14, 15] : [24, 26];
  const rows: { what: string; packet: Buffer; ranges: number[][]; gso?: boolean; as: string }[] = [
    {
      what: "TCP",
      packet: ethernet(wrap(summed(tcp({ options }, rubble), 16))),
      ranges: [[ip + 32, ip + 32 + 57]],
      as: "payload",
    },
    {
      what: "UDP, padded",
      packet: Buffer.concat([ethernet(wrap(summed(udp({}, rubble), 6))), Buffer.alloc(20)]),
      ranges: [[ip + 8, ip + 8 + 57]],
      as: "payload",
    },
    {
      what: "ICMP",
      packet: ethernet(wrap(six ? summed(icmpv6(), 2) : summed(icmp(8), 2))),
      ranges: [[ip + 8, ip + 24]],
      as: "payload",
    },
    {
      what: "TCP without data",
      packet: ethernet(wrap(summed(tcp(), 16))),
      ranges: [[ip + 16, ip + 18], header],
      as: "header",
    },
    {
      what: "TCP, its checksum not yet filled in",
      packet: ethernet(wrap(summed(tcp({}, rubble), 16, true))),
      ranges: [[ip + 16, ip + 18], header],
      as: "header",
    },
    {
      what: "UDP, its checksum not yet filled in",
      packet: ethernet(wrap(summed(udp({}, rubble), 6, true))),
      ranges: [[ip + 6, ip + 8], header],
      as: "header",
    },
    {
      what: "TCP of several segments",
      packet: ethernet(wrap(summed(tcp({}, Buffer.alloc(3000)), 16))),
      gso: true,
      ranges: [[ip + 16, ip + 18], header],
      as: "header",
    },
    { what: "UDP without a checksum", packet: ethernet(wrap(udp({}, rubble))), ranges: [header], as: "header" },
    { what: "SCTP", packet: ethernet(wrap(sctp())), ranges: [header], as: "header" },
  ];
  // An echo request of 8 bytes has nothing to turn.
  for (const { what, packet, ranges, gso, as } of rows.filter(({ what }) => six || what !== "ICMP"))
    test(`${family}, ${what}: one bit of the ${as} is turned${ranges.length > 1 ? ", and one of the checksum" : ""}`, () => {
      using lab = laboratory();
      const chain = fault(lab, { corrupt: "100%" });
      const places = new Set<number>();
      for (let i = 0; i < 40; i++) {
        const context = gso ? { gsoSegs: 3, gsoSize: 1000 } : {};
        const { verdict, packet: after } = chain.pass(packet, context);
        assert.is(verdict, next);
        const bits = turned(packet, after);
        assert.is(bits.length, ranges.length, `bits ${bits}`);
        for (const [from = 0, to = 0] of ranges)
          assert.is(bits.filter((bit) => bit >= from * 8 && bit < to * 8).length, 1, `bits ${bits}`);
        for (const bit of bits) places.add(bit);
      }
      assert.ok(places.size > ranges.length, "not always the same");
      assert.is(read(chain), `40 hit ingress, 40 corrupted_${as} ingress`);
    });
}

test("of a fragment the IP header, since its checksum is elsewhere", () => {
  using lab = laboratory();
  const packet = ethernet(ipv4({ fragment: { offset: 0, more: true } }, udp({}, rubble)));
  const bits = turned(packet, fault(lab, { corrupt: "100%" }).pass(packet).packet);
  assert.ok(bits.length === 1 && bits.every((bit) => bit >= 24 * 8 && bit < 26 * 8), `bits ${bits}`);
});

test("one packet meets one fault: lost before reset before corrupted", () => {
  using lab = laboratory();
  const chain = fault(lab, { drop: "100%", reset: "100%", corrupt: "100%" });
  chain.run(web);
  assert.is(read(chain), "1 hit ingress, 1 dropped ingress");
  const second = fault(lab, { reset: "100%", corrupt: "100%" });
  second.run(web);
  assert.is(read(second), "1 hit ingress, 1 reset ingress");
});

test("its manifest keeps it off the node's own chain", () => {
  const path = join(import.meta.dirname, "fault.yaml");
  assert.is(readManifest(path, readFileSync(path, "utf8"), parse).nodeWide, false);
});

test.run();
