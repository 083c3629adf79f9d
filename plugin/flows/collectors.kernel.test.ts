// SPDX-License-Identifier: Apache-2.0
/** IPFIX as real collectors read it: tshark and libfixbuf's ipfixDump from a file, nfdump's nfcapd over UDP. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Namespace, run, type Scratch, scratch } from "../../e2e/lib/scratch.ts";
import { type ExportedFlow, encode, encodeNames } from "./ipfix.ts";

const start = Date.UTC(2026, 8, 21, 14, 13, 20, 123);
/** Enough for several messages, of both families. */
const flows = Array.from({ length: 1600 }, (_, index): ExportedFlow => {
  const six = index % 4 === 0;
  const address = (last: number): Buffer =>
    six ? Buffer.from(`fd0000000000000000000000000000${last.toString(16)}`, "hex") : Buffer.from([10, 0, 1, last]);
  return {
    source: address(0x11),
    destination: address(0x22),
    sourcePort: 10_000 + index,
    destinationPort: 443,
    protocol: index % 2 === 0 ? 6 : 17,
    start: start + index,
    end: start + index + 5000,
    forward: {
      ...{ packets: index + 1, octets: 1000 * index + 2 ** 33, tcpFlags: 0x1b },
      ...(index % 5 === 0 ? { dropped: index + 1, status: "policed" } : { dropped: 0, status: "forwarded" }),
    },
    backward: { packets: 2 * index, octets: 3 * index, dropped: index, status: "forwarded", tcpFlags: 0x12 },
    reason: index % 2 === 0 ? "ended" : "active",
    direction: index % 3 === 0 ? "ingress" : "egress",
  };
});

/** A file as `--follow` leaves it: what opens it, and messages that were added later. */
function messages(): Buffer[] {
  const time = Math.floor(start / 1000);
  const domain = { id: 77, name: "shop/web eth0" };
  const stream = { domain, time, sequence: 0, opening: true };
  const first = encode(flows.slice(0, 700), stream);
  const second = encode(flows.slice(700), { ...stream, sequence: first.sequence, opening: false });
  return [encodeNames([domain], time), ...first.messages, ...second.messages];
}

function written(world: Scratch): string {
  const path = join(world.dir, "flows.ipfix");
  writeFileSync(path, Buffer.concat(messages()));
  return path;
}

const total = (list: ExportedFlow[], of: (flow: ExportedFlow) => number): number =>
  list.reduce((sum, flow) => sum + of(flow), 0);

test("tshark decodes the file", () => {
  using world = scratch();
  const fields = ["srcaddr", "srcaddrv6", "srcport", "packets", "octets", "tcpflags", "abstimestart", "abstimeend"];
  const dropped = ["drop_packets", "forwarding_status", "forwarding_status_drop_code"];
  const more = [...dropped, "flow_end_reason", "direction", "biflow_direction", "observation_domain_name"];
  const names = [...[...fields, ...more].map((name) => `cflow.${name}`), "_ws.expert.message"];
  const text = run("tshark", "-r", written(world), "-T", "json", ...names.flatMap((name) => ["-e", name]));
  const layers = (JSON.parse(text) as { _source: { layers: Record<string, string[]> } }[]).map(
    ({ _source }) => _source.layers,
  );
  const all = (name: string): string[] => layers.flatMap((layer) => layer[`cflow.${name}`] ?? []);
  assert.is(layers.length, messages().length);
  assert.ok(layers.length >= 3);
  // Each message has its IPv4 flows first.
  const six = flows.filter(({ source }) => source.length === 16);
  assert.equal([all("srcaddr").length, all("srcaddrv6").length], [flows.length - six.length, six.length]);
  const ports = all("srcport").map(Number);
  assert.equal(
    [...ports].sort((a, b) => a - b),
    flows.map(({ sourcePort }) => sourcePort),
  );
  const ordered = ports.map((port) => flows[port - 10_000] as ExportedFlow);
  const pairs = (of: (flow: ExportedFlow) => number[]): number[] => ordered.flatMap(of);
  assert.equal(
    all("packets").map(Number),
    pairs(({ forward, backward }) => [forward.packets, backward.packets]),
  );
  assert.equal(
    all("octets").map(Number),
    pairs(({ forward, backward }) => [forward.octets, backward.octets]),
  );
  assert.equal(
    all("tcpflags").map(Number),
    pairs(() => [0x12, 0x1b]),
  );
  assert.equal(
    all("drop_packets").map(Number),
    pairs(({ forward, backward }) => [forward.dropped, backward.dropped]),
  );
  const [forwarded, drop, policer] = [1, 2, 10];
  assert.equal(
    all("forwarding_status").map(Number),
    pairs(({ forward }) => [forwarded, forward.status === "policed" ? drop : forwarded]),
  );
  assert.equal(new Set(all("forwarding_status_drop_code").map(Number)), new Set([policer]));
  assert.equal(
    all("flow_end_reason").map(Number),
    pairs(({ reason }) => [reason === "ended" ? 3 : 2]),
  );
  assert.equal(
    all("direction").map(Number),
    pairs(({ direction }) => [direction === "egress" ? 1 : 0]),
  );
  assert.equal(new Set(all("biflow_direction")), new Set(["1"]));
  assert.equal(all("observation_domain_name"), ["shop/web eth0"]);
  assert.match(all("abstimestart")[0] ?? "", /14:13:20\.12[34]/);
  assert.equal(
    layers.flatMap((layer) => layer["_ws.expert.message"] ?? []),
    [],
    "such as a wrong sequence number",
  );
});

test("ipfixDump reads the file", () => {
  using world = scratch();
  const text = run("sh", "-c", `exec ipfixDump --in ${written(world)} 2>&1`);
  assert.not.match(text, "out of sequence");
  assert.match(text, `${messages().length} Messages, ${flows.length + 1} Data Records, 3 Template Records`);
  const sum = (name: string): number =>
    [...text.matchAll(new RegExp(`[ )]${name} : (\\d+)$`, "gm"))].reduce((sum, [, value]) => sum + Number(value), 0);
  assert.is(
    sum("octetDeltaCount"),
    total(flows, ({ forward }) => forward.octets),
  );
  assert.is(
    sum("reverseOctetDeltaCount"),
    total(flows, ({ backward }) => backward.octets),
  );
  assert.is(
    sum("reversePacketDeltaCount"),
    total(flows, ({ backward }) => backward.packets),
  );
  assert.is(
    sum("droppedPacketDeltaCount"),
    total(flows, ({ forward }) => forward.dropped),
  );
  assert.is(
    sum("reverseDroppedPacketDeltaCount"),
    total(flows, ({ backward }) => backward.dropped),
  );
  assert.match(text, / forwardingStatus : 138$/m);
  assert.match(text, /observationDomainName : \(len: 13\) shop\/web eth0/);
});

/** A command of nfdump's, where scripts/setup.sh has unpacked the package, or the machine's own. */
function ofNfdump(command: string): string {
  const unpacked = resolve(import.meta.dirname, "../../.cache/nfdump/usr/bin", command);
  return existsSync(unpacked) ? unpacked : command;
}

/** Sends each message as a datagram, the next when the one before was taken from the socket. */
const sender = `
const { createSocket } = require("node:dgram");
const { readFileSync } = require("node:fs");
const file = readFileSync(process.argv[1]);
const taken = () => readFileSync("/proc/net/udp", "latin1").split("\\n")
  .filter((line) => line.includes(":1283 ")).every((line) => line.includes("00000000:00000000"));
const socket = createSocket("udp4");
const next = (at) => {
  if (!taken()) return setTimeout(next, 5, at);
  if (at === file.length) return socket.close();
  const end = at + file.readUInt16BE(at + 2);
  socket.send(file.subarray(at, end), 4739, "127.0.0.1", (error) => { if (error) throw error; next(end); });
};
next(0);`;

async function collect(namespace: Namespace, world: Scratch, path: string): Promise<{ log: string; folder: string }> {
  const folder = join(world.dir, "nfcapd");
  mkdirSync(folder);
  const argv = [ofNfdump("nfcapd"), "-4", "-b", "127.0.0.1", "-p", "4739", "-w", folder, "-t", "3600", "-B", "1000000"];
  const child = spawn("ip", ["netns", "exec", namespace.name, ...argv], { stdio: ["ignore", "pipe", "pipe"] });
  const ended = once(child, "exit");
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (log += text));
  try {
    const deadline = performance.now() + 20_000;
    while (!readFileSync(`/proc/${child.pid}/net/udp`, "latin1").includes(":1283 ")) {
      if (child.exitCode !== null || performance.now() > deadline) throw new Error(`nfcapd does not listen: ${log}`);
      await new Promise((wake) => setTimeout(wake, 20));
    }
    namespace.exec(process.execPath, "-e", sender, path);
  } finally {
    child.kill("SIGINT");
    await ended;
  }
  return { log, folder };
}

test("nfdump collects the messages", async () => {
  using world = scratch();
  const { log, folder } = await collect(world.namespace(), world, written(world));
  assert.match(log, /Sequence Errors: 0, Bad Packets: 0/);
  const found = JSON.parse(run(ofNfdump("nfdump"), "-R", folder, "-o", "json")) as Record<string, unknown>[];
  assert.is(found.length, flows.length);
  for (const each of found) {
    const flow = flows[Number(each.src_port) - 10_000] as ExportedFlow;
    const { forward, backward, protocol, direction } = flow;
    assert.equal(
      [each.in_packets, each.in_bytes, each.out_packets, each.out_bytes],
      [forward.packets, forward.octets, backward.packets, backward.octets],
    );
    assert.equal([each.proto, each.direction, each.dst_port], [protocol, direction === "egress" ? 1 : 0, 443]);
    if (protocol === 6) assert.is(each.tcp_flags, "...AP.SF", "the initiator's");
    assert.match(
      String(each.first),
      new RegExp(`T\\d\\d:\\d\\d:2\\d\\.${String(flow.start % 1000).padStart(3, "0")}$`),
    );
    assert.is(
      each[flow.source.length === 16 ? "src6_addr" : "src4_addr"],
      flow.source.length === 16 ? "fd00::11" : "10.0.1.17",
    );
  }
});

test.run();
