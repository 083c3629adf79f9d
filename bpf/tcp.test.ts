// SPDX-License-Identifier: Apache-2.0
/** The headers tcp.h and random.h: what they make of packets and of probabilities. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { laboratory } from "./laboratory.ts";
import { ethernet, extension, fragment6, ipv4, ipv6, type TcpFields, tcp, udp, vlan } from "./packets.ts";

const names = [
  ...["read", "sequence", "acknowledgement", "payload", "window", "flags", "header", "opens", "end"],
  ...["fell", "numbers"],
] as const;

function tell(packet: Buffer, share?: string): Record<string, number> {
  using lab = laboratory();
  const chain = lab.chain([{ program: "fixtures/tcp", entry: "tell", ...(share ? { params: { share } } : {}) }]);
  chain.run(packet);
  const words = chain.members[0]?.totals("told") ?? [];
  return Object.fromEntries(names.map((name, index) => [name, words[index] ?? 0]));
}

const fields: TcpFields = {
  sequence: 0xfffffffe,
  acknowledgement: 0x80000001,
  window: 4321,
  flags: "SFAC",
  options: Buffer.from("020405b401010101", "hex"),
};
const segment = tcp(fields, Buffer.alloc(11));

for (const { what, packet } of [
  { what: "IPv4", packet: ethernet(ipv4({}, segment)) },
  { what: "IPv4 with options", packet: ethernet(ipv4({ options: Buffer.alloc(8, 1) }, segment)) },
  { what: "IPv6", packet: ethernet(ipv6({}, segment)) },
  { what: "IPv6 with extension headers", packet: ethernet(ipv6({}, extension("hopByHop", segment, 16))) },
  { what: "a tag", packet: ethernet(vlan(7, ipv4({}, segment))) },
  { what: "a frame padded to its least length", packet: Buffer.concat([ethernet(ipv4({}, segment)), Buffer.alloc(7)]) },
  { what: "a MAC that looks like IPv4", packet: ethernet(ipv4({}, segment), "45:00:00:00:00:02") },
])
  test(`TCP in ${what} is read as it stands there`, () => {
    assert.equal(tell(packet), {
      read: 1,
      sequence: 0xfffffffe,
      acknowledgement: 0x80000001,
      payload: 11,
      window: 4321,
      flags: 0x93,
      header: 28,
      opens: 0,
      end: 11, // -2, and 11 bytes, SYN and FIN
      fell: 0,
      numbers: 0,
    });
  });

for (const { flags, opens } of [
  { flags: "S", opens: 1 },
  { flags: "SEC", opens: 1 },
  { flags: "SP", opens: 1 },
  { flags: "SA", opens: 0 },
  { flags: "SR", opens: 0 },
  { flags: "SF", opens: 0 },
  { flags: "A", opens: 0 },
])
  test(`flags ${flags} ${opens ? "open" : "do not open"} a connection`, () => {
    assert.is(tell(ethernet(ipv4({}, tcp({ flags })))).opens, opens);
  });

// Their IP header says 0, as those of packets beyond 65535 bytes do.
for (const { what, packet } of [
  { what: "IPv4", packet: ethernet(ipv4({}, segment)).fill(0, 16, 18) },
  { what: "IPv6", packet: ethernet(ipv6({}, segment)).fill(0, 18, 20) },
  { what: "IPv6 with options", packet: ethernet(ipv6({}, extension("hopByHop", segment))).fill(0, 18, 20) },
])
  test(`BIG TCP over ${what}: what the packet has is what counts`, () => {
    assert.is(tell(packet).payload, 11);
  });

for (const { what, packet } of [
  { what: "UDP", packet: ethernet(ipv4({}, udp({}, Buffer.alloc(40)))) },
  { what: "a later fragment", packet: ethernet(ipv4({ fragment: { offset: 9, more: false } }, segment)) },
  { what: "a later fragment of IPv6", packet: ethernet(ipv6({}, fragment6({ offset: 9, more: false }, segment))) },
  {
    what: "a first fragment that ends within the header",
    packet: ethernet(ipv4({ fragment: { offset: 0, more: true } }, { protocol: 6, bytes: Buffer.alloc(8) })),
  },
  { what: "a header of 4 words", packet: ethernet(ipv4({}, tcp({ words: 4 }))) },
  { what: "a header longer than the packet", packet: ethernet(ipv4({}, tcp({ words: 6 }))) },
  {
    what: "a header that ends in the padding",
    packet: Buffer.concat([ethernet(ipv4({}, tcp({ words: 6 }))), Buffer.alloc(8)]),
  },
  { what: "a header cut short", packet: ethernet(ipv4({}, segment)).subarray(0, 14 + 20 + 19) },
])
  test(`no TCP header is read of ${what}`, () => {
    assert.is(tell(packet).read, 0);
  });

test("a probability is parts of 2^32, of which 0% are none and 100% are all", () => {
  for (const [share, numbers] of [
    ["0.0001%", 4294],
    ["0.5%", 21474836],
    ["50%", 2 ** 31],
    ["100%", 2 ** 32],
  ] as const)
    assert.is(tell(ethernet(ipv4({}, segment)), share).numbers, numbers);
});

test("chance falls as often as it says", () => {
  assert.is(tell(ethernet(ipv4({}, segment)), "100%").fell, 1000);
  const half = tell(ethernet(ipv4({}, segment)), "50%").fell ?? 0;
  // Ten standard deviations: 1 of 10^23 runs fails.
  assert.ok(Math.abs(half - 500) < 160, `${half} of 1000`);
});

test.run();
