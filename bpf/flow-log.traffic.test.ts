// SPDX-License-Identifier: Apache-2.0
/** flow-log under real connections, with and without Ethernet headers, with losses, and on several CPUs at once. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Namespace } from "../e2e/lib/scratch.ts";
import { type Laboratory, laboratory, type Member, type Wanted } from "./laboratory.ts";
import { ethernet, ipv4, tcp } from "./packets.ts";
import { bareIpPair, ethernetPair, four, six } from "./pairs.ts";
import { runInParallel, stopped } from "./parallel.ts";

interface Side {
  packets: number;
  bytes: number;
  ip_bytes: number;
  retransmissions: number;
  initial_sequence: number;
  next_sequence: number;
  tcp_flags: number;
}
interface Flow {
  initiator: string;
  connections: number;
  first_seen: number;
  last_seen: number;
  syn_to_synack: number;
  synack_to_ack: number;
  ingress: Side;
  egress: Side;
}

const program = "flow-log";
const port = 5001;

/** Puts flow-log on both directions of a pod's interface, with what else shall stand behind it on egress. */
function watch(lab: Laboratory, pod: Namespace, behind: Wanted[] = []) {
  const ingress = lab.chain([{ program, entry: "flow_log_ingress" }]);
  const sharing = ingress.members[0] as Member;
  const egress = lab.chain([{ program, entry: "flow_log_egress", sharing }, ...behind]);
  lab.attach(ingress, pod, "pod0", "ingress");
  lab.attach(egress, pod, "pod0", "egress");
  return { member: sharing, behind: egress.members.slice(1) };
}

/** The TCP flows of our port, by the address family. */
function flowsOf(member: Member): Partial<Record<4 | 6, Flow>> {
  const swapped = ((port & 255) << 8) | (port >> 8);
  const ours = member.contents("flows").flatMap(({ key, value }) => {
    const { family, protocol, source_port, destination_port } = key as Record<string, number>;
    const same = protocol === 6 && (source_port === swapped || destination_port === swapped);
    return same ? [[family, value as unknown as Flow] as const] : [];
  });
  assert.is(new Set(ours.map(([family]) => family)).size, ours.length, "one record for a connection");
  return Object.fromEntries(ours);
}

/** Stream bytes that a direction had, by its sequence numbers: without SYN and FIN. */
const streamed = ({ initial_sequence, next_sequence }: Side) => ((next_sequence - initial_sequence) >>> 0) - 2;

/** Sends bytes over TCP and gets a few back; returns how many arrived. */
async function transfer(from: Namespace, to: Namespace, address: string, bytes: number): Promise<number> {
  const script = `let total = 0;
    const server = require("net").createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("data", (data) => { total += data.length; });
      socket.on("end", () => { console.log(total); socket.end("thanks"); server.close(); });
    }).listen(${port}, "::", () => console.log("listening"));`;
  const server = spawn("ip", ["netns", "exec", to.name, process.execPath, "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    let output = "";
    server.stdout.on("data", (data) => {
      output += data;
    });
    const ended = once(server, "close");
    await once(server.stdout, "data");
    from.exec(
      process.execPath,
      "-e",
      `require("net").connect(${port}, "${address}", function () { this.end(Buffer.alloc(${bytes})); }).resume();`,
    );
    await ended;
    return Number(output.split("\n")[1]);
  } finally {
    await stopped(server);
  }
}

for (const { device, pair, link } of [
  { device: "veth", pair: ethernetPair, link: 14 },
  { device: "a device without Ethernet headers", pair: bareIpPair, link: 0 },
])
  test(`${device}: a connection is one record, with every byte, its flags and its round trips`, async () => {
    using lab = laboratory();
    const [remote, pod] = pair(lab);
    const { member } = watch(lab, pod);
    const bytes = 1_500_000;
    for (const [from, to, address] of [
      [remote, pod, four[1]],
      [pod, remote, six[0]],
    ] as const)
      assert.is(await transfer(from, to, address, bytes), bytes);
    const flows = flowsOf(member);
    for (const [family, sender, receiver] of [
      [4, "ingress", "egress"],
      [6, "egress", "ingress"],
    ] as const) {
      const flow = flows[family];
      assert.ok(flow);
      const { [sender]: there, [receiver]: back } = flow;
      assert.is(flow.initiator, `REMORA_${sender.toUpperCase()}`);
      assert.is(flow.connections, 1);
      assert.equal([streamed(there), streamed(back)], [bytes, "thanks".length]);
      assert.equal([there.tcp_flags & 0x13, back.tcp_flags & 0x13], [0x13, 0x13], "SYN, FIN, ACK");
      // A header of IP and TCP for each packet, with timestamps; 8 bytes more in the SYN, 12 and more with a SACK.
      const headers = (family === 4 ? 20 : 40) + 32;
      for (const [side, payload] of [
        [there, bytes],
        [back, "thanks".length],
      ] as const) {
        assert.is(side.bytes - side.ip_bytes, side.packets * link, "link-layer headers");
        const least = payload + side.packets * headers + 8;
        assert.ok(side.ip_bytes >= least, `${side.ip_bytes} bytes`);
        if (there.retransmissions + back.retransmissions === 0)
          assert.ok(side.ip_bytes <= least + 12 * side.packets, `${side.ip_bytes} bytes`);
      }
      const lasted = flow.last_seen - flow.first_seen;
      assert.ok(flow.syn_to_synack > 0 && flow.synack_to_ack > 0, "round trips");
      assert.ok(flow.syn_to_synack + flow.synack_to_ack <= lasted, "within the connection");
    }
  });

test("what is lost behind flow-log is seen again", async () => {
  using lab = laboratory();
  const [remote, pod] = ethernetPair(lab);
  const { member, behind } = watch(lab, pod, [{ program: "fixtures/lossy", entry: "lossy" }]);
  const bytes = 2_000_000;
  assert.is(await transfer(pod, remote, four[0], bytes), bytes);
  const flow = flowsOf(member)[4];
  const [, dropped = 0] = behind[0]?.totals("losses") ?? [];
  assert.ok(flow && dropped > 0);
  assert.is(streamed(flow.egress), bytes);
  // A sender may send more again than was lost, never less.
  assert.ok(flow.egress.retransmissions >= dropped, `${flow.egress.retransmissions} of ${dropped} lost`);
  assert.ok(flow.egress.retransmissions < flow.egress.packets / 2);
  assert.is(flow.ingress.retransmissions, 0);
});

test("several CPUs at once lose no packet of a record", async () => {
  using lab = laboratory();
  const chain = lab.chain([{ program, entry: "flow_log_ingress" }]);
  const packet = ethernet(ipv4({}, tcp({ source: 40000, destination: port, sequence: 7 }, Buffer.alloc(10))));
  const runs = await runInParallel(lab, chain, [packet, packet, packet], 40);
  const flow = flowsOf(chain.members[0] as Member)[4];
  assert.ok(flow);
  assert.equal(
    [flow.ingress.packets, flow.ingress.bytes, flow.ingress.retransmissions],
    [runs, runs * packet.length, runs - 1],
  );
});

test.run();
