// SPDX-License-Identifier: Apache-2.0
/**
 * The parser's two ways, through pointers and by cursors, say the same of each packet that both can read: of thousands that
 * are made up, whole, cut short or with a byte changed. What they say is told by the tests of the programs.
 */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { generator, pick } from "../e2e/lib/random.ts";
import { laboratory } from "./laboratory.ts";
import * as made from "./packets.ts";

const { ethernet, extension, fragment6, icmp, icmpv6, ipv4, ipv6, protocol, sctp, tcp, udp, vlan } = made;

type Random = (below: number) => number;

/** Of fragments that say so as well as of whole packets. */
const fragments = [undefined, undefined, undefined, { offset: 0, more: true }, { offset: 9, more: false }] as const;
/** That of the source stands where an ethertype would, were there no Ethernet header: 8.0 is IPv4's. */
const addresses = ["10.0.0.1", "8.0.69.1", "134.221.96.1"];
const macs = [...Array<string>(4).fill("02:00:00:00:00:02"), "45:00:00:00:00:02", "60:00:00:00:00:02"];

function network(random: Random): made.Network {
  const transport = pick(random, [tcp(), udp(), sctp(), icmp(), icmpv6(), protocol(47), protocol(59), protocol(6)]);
  if (random(2)) {
    const options = pick(random, [undefined, undefined, Buffer.alloc(4, 1), Buffer.alloc(40, 1)]);
    const [fragment, source] = [pick(random, fragments), pick(random, addresses)];
    return ipv4({ source, ...(options && { options }), ...(fragment && { fragment }) }, transport);
  }
  const fragment = pick(random, fragments);
  const inner = fragment ? fragment6(fragment, transport) : transport;
  return ipv6({}, pick(random, [inner, inner, extension("hopByHop", inner), extension("routing", inner, 24)]));
}

function packet(random: Random): Buffer {
  const inner = network(random);
  const frame = ethernet(pick(random, [inner, inner, inner, vlan(7, inner)]), pick(random, macs));
  // prog_test_run wants the first IP header whole.
  const least = 14 + (frame[12] === 0x08 ? 20 : 40);
  const short = frame.subarray(0, random(3) ? frame.length : Math.min(frame.length, least + random(30)));
  if (random(3) === 0) short[random(short.length)] = pick(random, [0, 1, 4, 6, 17, 44, 0x45, 0x60, 0x80, 0xff]);
  return short;
}

test("through pointers and by cursors, a packet is the same", () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "fixtures/packet", entry: "compare" }]);
  const told = () => chain.members[0]?.totals("told") ?? [];
  const random = generator(4);
  const count = 10_000;
  for (let index = 0; index < count; index++) {
    const bytes = packet(random);
    chain.run(bytes);
    const [, , words, flows, read, walked] = told();
    const found = `${read?.toString(16)} and ${walked?.toString(16)} of ${bytes.toString("hex")}`;
    if (words || flows) assert.unreachable(`the ${words ? "words" : "flows"} differ: ${found}`);
  }
  const [direct = 0, malformed = 0] = told();
  assert.ok(direct > count / 8 && malformed > count / 50, `${direct} were read directly, ${malformed} malformed`);
});

test.run();
