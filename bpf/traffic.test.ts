// SPDX-License-Identifier: Apache-2.0
/** Real packets between two namespaces, through a chain of count and acl: on veth, and on a device without Ethernet headers. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Namespace, run } from "../e2e/lib/scratch.ts";
import { type Chain, type Laboratory, laboratory } from "./laboratory.ts";
import { readDecisions, readTotals } from "./layout.ts";
import { ethernet, extension, ipv4, ipv6, tcp, udp } from "./packets.ts";
import { bareIpPair, ethernetPair, four, six, transfer } from "./pairs.ts";

const ping = (seconds: number) => (from: Namespace, to: string) =>
  spawnSync("ip", ["netns", "exec", from.name, "ping", "-c", "1", "-W", String(seconds), to]).status === 0;
const reaches = ping(10);
/** Enough for what comes back at once, or not at all. */
const reachesSoon = ping(0.3);

const totalsOf = (chain: Chain) => readTotals(chain.members[0]?.totals("totals") ?? []);
const decisionsOf = (chain: Chain) => readDecisions(chain.members[1]?.totals("decisions") ?? []);

function guard(lab: Laboratory, entry: "acl_ingress" | "acl_egress", params: Record<string, string>): Chain {
  return lab.chain([
    { program: "count", entry: "count" },
    { program: "acl", entry, params },
  ]);
}

for (const { device, pair, header } of [
  { device: "veth", pair: ethernetPair, header: 14 },
  { device: "a device without Ethernet headers", pair: bareIpPair, header: 0 },
]) {
  test(`${device}: what a rule denies is dropped in both directions, the rest passes, and all of it counts`, () => {
    using lab = laboratory();
    const [a, b] = pair(lab);
    const ingress = guard(lab, "acl_ingress", { rules: `deny icmp ${four[0]}`, default_action: "allow" });
    lab.attach(ingress, b, "pod0", "ingress");
    assert.not.ok(reachesSoon(a, four[1]));
    assert.ok(reaches(a, six[1]));
    assert.match(decisionsOf(ingress), /\b1 rule 0 ingress/);
    const totals = totalsOf(ingress);
    assert.equal(totals.ipv4_icmp, [1, 1, header + 84]);
    assert.ok((totals.ipv6_icmp?.[0] ?? 0) >= 1);

    const egress = guard(lab, "acl_egress", { rules: `deny icmpv6 ${six[1]}`, default_action: "allow" });
    lab.attach(egress, a, "pod0", "egress");
    assert.not.ok(reachesSoon(a, six[1]));
    assert.match(decisionsOf(egress), /\b[1-9]\d* rule 0 egress/);
  });

  test(`${device}: an Ethernet header is found where there is one`, () => {
    using lab = laboratory();
    const [a, b] = pair(lab);
    const chains = (["ingress", "egress"] as const).map((direction) => {
      const chain = lab.chain([{ program: "fixtures/link", entry: "link" }]);
      lab.attach(chain, b, "pod0", direction);
      return chain;
    });
    assert.ok(reaches(a, four[1]) && reaches(a, six[1]));
    for (const chain of chains) {
      const [framed = 0, bare = 0] = chain.members[0]?.totals("seen") ?? [];
      assert.ok(framed + bare >= 2);
      assert.is(header > 0 ? bare : framed, 0);
    }
  });

  test(`${device}: a datagram that reads as TCP behind an Ethernet header counts as what it is`, () => {
    using lab = laboratory();
    const [a, b] = pair(lab);
    const chain = lab.chain([{ program: "count", entry: "count" }]);
    lab.attach(chain, b, "pod0", "ingress");
    assert.ok(reaches(a, four[1]));
    // Of a source address 8.0.69.1 the first half is IPv4's ethertype, and the next byte begins a header; then of a source
    // port 16384 the offset is 0 and no fragment follows, and a destination port 6 is the protocol.
    const script = `const socket = require("dgram").createSocket("udp4").bind(16384, () =>
        socket.send("long enough to hold all of these headers", 6, "${four[1]}", () => socket.close()));`;
    a.exec(process.execPath, "-e", script);
    const totals = totalsOf(chain);
    assert.equal([totals.ipv4_udp?.[0], totals.ipv4_tcp], [1, undefined]);
  });

  test(`${device}: with a default of deny, only what a rule names passes, and neighbours still find each other`, async () => {
    using lab = laboratory();
    const [a, b] = pair(lab);
    const params = { rules: "allow ingress tcp any 5001; allow egress tcp any sport 5001", default_action: "deny" };
    const chains = [guard(lab, "acl_ingress", params), guard(lab, "acl_egress", params)] as const;
    lab.attach(chains[0], b, "pod0", "ingress");
    lab.attach(chains[1], b, "pod0", "egress");
    assert.not.ok(reachesSoon(a, four[1]));
    assert.not.ok(reachesSoon(a, six[1]));
    for (const address of [four[1], six[1]]) assert.is(await transfer(a, b, address, 1000), 1000);
    assert.match(decisionsOf(chains[0]), /\d+ rule 0 ingress.* \d+ default ingress/);
    assert.match(decisionsOf(chains[1]), /\d+ rule 1 egress/);
  });

  test(`${device}: a TCP stream has as many packets and bytes on the wire at its end as at its beginning`, async () => {
    using lab = laboratory();
    const [a, b] = pair(lab);
    const [sent, received] = [0, 1].map(() => lab.chain([{ program: "count", entry: "count" }])) as [Chain, Chain];
    lab.attach(sent, a, "pod0", "egress");
    lab.attach(received, b, "pod0", "ingress");
    const bytes = 2_000_000;
    for (const address of [four[1], six[1]]) assert.is(await transfer(a, b, address, bytes), bytes);
    for (const name of ["ipv4_tcp", "ipv6_tcp"]) {
      const [begin = [], end = []] = [totalsOf(sent)[name], totalsOf(received)[name]];
      assert.equal(end.slice(1), begin.slice(1), name);
      const [runs = 0, packets = 0, wire = 0] = end;
      assert.ok(packets > 2 * runs, `${name}: ${runs} runs for ${packets} packets, where GSO was expected`);
      // Each has headers of its own: 20 or 40 bytes of IP, 32 of TCP with timestamps, a few more in the handshake.
      const headers = packets * (header + (name === "ipv4_tcp" ? 20 : 40) + 32);
      // At least: a receiver that falls behind drops, and is sent a part twice.
      assert.ok(wire - headers > bytes - 100, `${name}: ${wire} bytes in ${packets} packets`);
    }
  });
}

test("headers behind the linear part are read as well, and what is cut short on a wire is dropped", () => {
  using lab = laboratory();
  const [a, b] = ethernetPair(lab);
  for (const end of [a, b]) end.exec("ip", "link", "set", "pod0", "mtu", "9000");
  const helper = join(lab.world.dir, "frame");
  run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, join(import.meta.dirname, "fixtures/frame.c"));
  const chain = guard(lab, "acl_ingress", { rules: "deny udp 10.0.0.0/8 7; allow tcp", default_action: "deny" });
  lab.attach(chain, b, "pod0", "ingress");
  // Stragglers of the kernel's own (router solicitations, multicast reports) are told apart by their decision.
  const decided = (decision: string) =>
    Number(new RegExp(`(\\d+) ${decision} ingress`).exec(decisionsOf(chain))?.[1] ?? 0);
  const page = Buffer.alloc(5000);
  for (const { what, frame, decision } of [
    { what: "UDP over IPv4", frame: ethernet(ipv4({}, udp({ destination: 7 }, page))), decision: "rule 0" },
    { what: "TCP over IPv6", frame: ethernet(ipv6({}, extension("hopByHop", tcp({}, page), 64))), decision: "rule 1" },
    { what: "half an IPv4 header", frame: ethernet(ipv4({}, tcp())).subarray(0, 24), decision: "malformed" },
    { what: "an Ethernet header alone", frame: ethernet(ipv6({}, tcp())).subarray(0, 14), decision: "malformed" },
  ]) {
    const before = decided(decision);
    const sent = spawnSync("ip", ["netns", "exec", a.name, helper, "pod0"], { input: frame, encoding: "utf8" });
    assert.is(sent.status, 0, sent.stderr);
    assert.is(decided(decision), before + 1, what);
  }
});

test.run();
