// SPDX-License-Identifier: Apache-2.0
/** mark-dscp on the way of real TCP streams, whose packets are GSO packets, clones, and without checksums of their own. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run } from "../e2e/lib/scratch.ts";
import { type Chain, laboratory } from "./laboratory.ts";
import { readMarkings, readSeen } from "./layout.ts";
import { ethernet, ipv4, udp } from "./packets.ts";
import { bareIpPair, ethernetPair, four, six, transfer } from "./pairs.ts";

const ef = 46 << 2;
const af41 = 34 << 2;
const bytes = 2_000_000;

const marker = (direction: "ingress" | "egress") => ({
  program: "mark-dscp",
  entry: `mark_${direction}`,
  params: {
    rules: `EF ${four[1]} 5001; AF41 ${six[1]}; keep sport 5001`,
    dscp: "CS7",
    mark: "0x500",
    mark_mask: "0xf00",
  },
});
const observer = { program: "fixtures/tos", entry: "tos" };
const seen = (chain: Chain, at: number) => readSeen(chain.members[at]?.totals("seen") ?? []);

for (const { device, pair } of [
  { device: "veth", pair: ethernetPair },
  { device: "a device without Ethernet headers", pair: bareIpPair },
]) {
  test(`${device}: streams arrive whole, marked by the sender's egress, and answers as they were`, async () => {
    using lab = laboratory();
    const [a, b] = pair(lab);
    const [sent, received, answers] = [[marker("egress")], [observer], [marker("egress"), observer]].map((wanted) =>
      lab.chain(wanted),
    ) as [Chain, Chain, Chain];
    lab.attach(sent, a, "pod0", "egress");
    lab.attach(received, b, "pod0", "ingress");
    lab.attach(answers, b, "pod0", "egress");
    for (const address of [four[1], six[1]]) assert.is(await transfer(a, b, address, bytes), bytes);
    assert.equal(Object.keys(seen(received, 0)), [`ipv4 ${ef}`, `ipv6 ${af41}`]);
    assert.equal(Object.keys(seen(answers, 1)), ["ipv4 0", "ipv6 0"]);
    const counted = readMarkings(sent.members[0]?.totals("markings") ?? [], "egress");
    assert.ok((counted["rule 0"] ?? 0) > 10 && (counted["rule 1"] ?? 0) > 10, JSON.stringify(counted));
    assert.is(counted.failed, undefined);
  });

  test(`${device}: what ingress marks is still received`, async () => {
    using lab = laboratory();
    const [a, b] = pair(lab);
    const params = { rules: `EF ${four[0]}; AF41 tcp ${six[0]} 5001` };
    const chain = lab.chain([{ program: "mark-dscp", entry: "mark_ingress", params }, observer]);
    lab.attach(chain, b, "pod0", "ingress");
    for (const address of [four[1], six[1]]) assert.is(await transfer(a, b, address, bytes), bytes);
    assert.equal(Object.keys(seen(chain, 1)), [`ipv4 ${ef}`, `ipv6 ${af41}`]);
  });
}

test("headers behind the linear part are written as well, and the receiver finds their checksum right", () => {
  using lab = laboratory();
  const [a, b] = ethernetPair(lab);
  for (const end of [a, b]) end.exec("ip", "link", "set", "pod0", "mtu", "9000");
  const helper = join(lab.world.dir, "frame");
  run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, join(import.meta.dirname, "fixtures/frame.c"));
  const chain = lab.chain([{ program: "mark-dscp", entry: "mark_ingress", params: { rules: "EF udp any 7" } }]);
  lab.attach(chain, b, "pod0", "ingress");
  /** Datagrams that came through IP to a port where nobody listens. */
  const arrived = (): number => {
    const [names = "", values = ""] = b.exec("cat", "/proc/net/snmp").match(/^Udp:.*$/gm) ?? [];
    return Number(values.split(" ")[names.split(" ").indexOf("NoPorts")]);
  };
  const before = arrived();
  const fields = { source: four[0], destination: four[1], tos: 1 };
  const frame = ethernet(ipv4(fields, udp({ destination: 7 }, Buffer.alloc(5000))), "ff:ff:ff:ff:ff:ff");
  const sent = spawnSync("ip", ["netns", "exec", a.name, helper, "pod0"], { input: frame, encoding: "utf8" });
  assert.is(sent.status, 0, sent.stderr);
  const counted = readMarkings(chain.members[0]?.totals("markings") ?? [], "ingress");
  assert.equal([counted.marked, counted["rule 0"]], [1, 1]);
  assert.is(arrived(), before + 1);
});

test.run();
