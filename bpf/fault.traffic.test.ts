// SPDX-License-Identifier: Apache-2.0
/** fault between real sockets: what an application and its kernel see of it. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Namespace, run } from "../e2e/lib/scratch.ts";
import type { Direction } from "../plugin/kernel/port.ts";
import { type Laboratory, laboratory } from "./laboratory.ts";
import { internetChecksum, ipv4, udp } from "./packets.ts";
import { bareIpPair, ethernetPair, four, type Pair, six } from "./pairs.ts";
import { Peer, until } from "./peer.ts";

/**
 * Echoes on port 5001. "open ADDRESS" connects to such a port and says "connected", any other line is written there; what
 * comes back is said, and how it ends.
 */
const talker = `
  const net = require("net");
  let socket;
  const say = (input) => {
    const lines = require("readline").createInterface({ input });
    lines.on("line", (line) => console.log(line)).on("error", () => {});
  };
  net.createServer((peer) => peer.on("error", () => {}).on("data", (data) => peer.write(data)))
    .listen(5001, "::", () => console.log("ready"));
  require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
    const [command, address] = line.split(" ");
    if (command !== "open") return socket.write(line + "\\n");
    socket = net.connect(5001, address, () => console.log("connected"));
    socket.on("error", (error) => console.log(error.code)).on("end", () => console.log("ended"));
    say(socket);
  });`;

async function talkers(ends: Pair): Promise<[Peer, Peer] & AsyncDisposable> {
  const peers: [Peer, Peer] = [new Peer(ends[0], talker), new Peer(ends[1], talker)];
  for (const peer of peers) assert.is(await peer.line(), "ready");
  return Object.assign(peers, {
    [Symbol.asyncDispose]: async () => {
      for (const peer of peers) await peer[Symbol.asyncDispose]();
    },
  });
}

/** Puts the program in place; `detach` takes it away again. */
function place(
  lab: Laboratory,
  namespace: Namespace,
  params: Record<string, string>,
  entry: Direction,
  hook: Direction = entry,
) {
  const chain = lab.chain([{ program: "fault", entry: `fault_${entry}`, params }]);
  const { path: netns } = namespace;
  const { ifindex } = lab.kernel.findInterface(netns, "pod0");
  const link = lab.kernel.attachTcx({ program: chain.head, netns, ifindex, direction: hook });
  const names = ["hit", "dropped", "reset", "not_reset", "corrupted_payload", "corrupted_header"];
  return {
    done(): Record<string, number> {
      const words = (chain.members[0]?.totals("done") ?? []).slice(entry === "ingress" ? 0 : names.length);
      return Object.fromEntries(names.map((name, index) => [name, words[index] ?? 0]));
    },
    [Symbol.dispose]() {
      lab.kernel.detachLink(link);
      lab.kernel.close(link);
    },
  };
}

// Who is reset is who has sent: from outside, from the pod, from the pod seen at the host's end of the pair.
const resets: { what: string; sender: 0 | 1; at: 0 | 1; entry: Direction; hook: Direction }[] = [
  { what: "what comes into the pod", sender: 0, at: 1, entry: "ingress", hook: "ingress" },
  { what: "what the pod sends", sender: 1, at: 1, entry: "egress", hook: "egress" },
  { what: "what the pod sends, at the host's end", sender: 1, at: 0, entry: "egress", hook: "ingress" },
];
for (const { device, pair, cases } of [
  { device: "veth", pair: ethernetPair, cases: resets },
  // What such a tunnel sends must have come down a route, which an answer has not.
  { device: "a device without Ethernet headers", pair: bareIpPair, cases: resets.slice(1, 2) },
])
  test(`${device}: reset: a connection ends with ECONNRESET, a new one is refused`, async () => {
    using lab = laboratory();
    const ends = pair(lab);
    await using peers = await talkers(ends);
    for (const { what, sender, at, entry, hook } of cases)
      for (const addresses of [four, six]) {
        const to = addresses[sender === 0 ? 1 : 0];
        const talking = peers[sender];
        assert.is(await talking.ask(`open ${to}`), "connected", what);
        assert.is(await talking.ask("hello"), "hello", what);
        using fault = place(lab, ends[at], { reset: "100%", rules: "deny tcp any 5001" }, entry, hook);
        assert.is(await talking.ask("hello again"), "ECONNRESET", what);
        assert.is(await talking.ask(`open ${to}`), "ECONNREFUSED", what);
        const done = fault.done();
        assert.ok((done.reset ?? 0) >= 2 && done.hit === done.reset, `${what}: ${JSON.stringify(done)}`);
      }
  });

test("drop, corrupt: nothing of it reaches an application; once it is over, all of it does, unharmed", async () => {
  using lab = laboratory();
  const ends = ethernetPair(lab);
  const [, pod] = ends;
  await using peers = await talkers(ends);
  const [talking] = peers;
  for (const { param, counts } of [
    { param: "drop", counts: "dropped" },
    { param: "corrupt", counts: "corrupted_header" },
  ])
    for (const addresses of [four, six]) {
      assert.is(await talking.ask(`open ${addresses[1]}`), "connected");
      const before = drops(pod);
      {
        using fault = place(lab, pod, { [param]: "100%", rules: "deny tcp any 5001" }, "ingress");
        talking.tell("are you there?");
        // The first, and one that is sent again.
        await until(() => (fault.done()[counts] ?? 0) >= 2, true);
        assert.is(fault.done()[counts], fault.done().hit);
        // Damaged headers are what the receiving kernel counts; what was dropped it has never seen.
        await until(() => drops(pod) - before >= 2, param === "corrupt");
      }
      assert.is(await talking.line(), "are you there?");
    }
});

/** IP packets that the namespace's kernel refused for their headers. */
function drops(namespace: Namespace): number {
  const { kernel } = JSON.parse(namespace.exec("nstat", "-a", "-s", "-j", "-z")) as { kernel: Record<string, number> };
  return (kernel.IpExtInCsumErrors ?? 0) + (kernel.Ip6InHdrErrors ?? 0);
}

test("corrupt: where a packet has its checksum, its payload is damaged, and the receiver's kernel sees it", async () => {
  using lab = laboratory();
  const [a, b] = ethernetPair(lab);
  const helper = join(lab.world.dir, "frame");
  run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, join(import.meta.dirname, "fixtures/frame.c"));
  await using receiver = new Peer(
    b,
    `const socket = require("dgram").createSocket("udp4");
     socket.on("message", (data) => console.log(data.toString()));
     socket.bind(7777, () => console.log("bound"));`,
  );
  await receiver.line();
  const send = (text: string) => {
    const sent = spawnSync("ip", ["netns", "exec", a.name, helper, "pod0"], { input: datagram(a, b, text) });
    assert.is(sent.status, 0, sent.stderr.toString());
  };
  const errors = () =>
    (JSON.parse(b.exec("nstat", "-a", "-s", "-j", "-z")) as { kernel: Record<string, number> }).kernel.UdpInCsumErrors;
  {
    using fault = place(lab, b, { corrupt: "100%", rules: "deny udp any 7777" }, "ingress");
    for (let i = 0; i < 20; i++) send(`damaged ${i}`);
    assert.is(fault.done().corrupted_payload, 20);
  }
  await until(errors, 20);
  send("whole");
  assert.is(await receiver.line(), "whole");
});

/** A frame from a to b with all its checksums, so that nothing is left to a device. */
function datagram(a: Namespace, b: Namespace, text: string): Buffer {
  const mac = (namespace: Namespace) => {
    const [link] = JSON.parse(namespace.exec("ip", "-j", "link", "show", "pod0")) as { address: string }[];
    return Buffer.from((link?.address ?? "").replaceAll(":", ""), "hex");
  };
  const { protocol, bytes } = udp({ source: 7777, destination: 7777 }, Buffer.from(text));
  const network = ipv4({ source: four[0], destination: four[1] }, { protocol, bytes });
  const pseudo = Buffer.concat([network.bytes.subarray(12, 20), Buffer.from([0, protocol]), bytes.subarray(4, 6)]);
  const sum = internetChecksum(Buffer.concat([pseudo, bytes, Buffer.alloc(bytes.length % 2)]));
  network.bytes.writeUInt16BE(sum, 20 + 6);
  return Buffer.concat([mac(b), mac(a), Buffer.from("0800", "hex"), network.bytes]);
}

test.run();
