// SPDX-License-Identifier: Apache-2.0
/** `remora flows` on the real kernel: a TCP transfer, a refused connection, pings and DNS, told as they were. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { containerId, type Pod, pod, remoraWith } from "../../e2e/lib/pod.ts";
import { type Namespace, run, type Scratch, scratch } from "../../e2e/lib/scratch.ts";
import type { Change } from "../flows/changes.ts";
import type { Watch } from "./command.ts";
import { FlowExport } from "./flow-export.ts";
import type { ShownMap } from "./maps.ts";
import type { Recorded } from "./records.ts";

const library = resolve(import.meta.dirname, "../../bpf");
const peer = resolve(import.meta.dirname, "../../e2e/flows/peer.ts");

/** Compiled once for all tests. */
const compiled = new Map<string, Buffer>();

function install(world: Scratch, name: string): void {
  const object = compiled.get(name) ?? readFileSync(world.compile(join(library, `${name}.bpf.c`)));
  compiled.set(name, object);
  copyFileSync(join(library, `${name}.yaml`), join(world.dir, "programs", `${name}.yaml`));
  writeFileSync(join(world.dir, "programs", `${name}.bpf.o`), object, { mode: 0o644 });
}

/** The pod, with count, these programs of the library, and acl behind them. */
async function logged(world: Scratch, ...names: string[]): Promise<Pod> {
  mkdirSync(join(world.dir, "programs"), { mode: 0o755 });
  for (const name of names) install(world, name);
  const made = await pod(world, {
    "remora.io/programs": ["count", ...names, "acl"].join(","),
    "acl.remora.io/rules": "deny egress udp any 9",
  });
  for (const [namespace, ifname, address] of [
    [made.outside, "outside", "fd99::1/64"],
    [made.inside, "eth0", "fd99::2/64"],
  ] as const)
    namespace.exec("ip", "addr", "add", address, "dev", ifname, "nodad");
  return made;
}

/** Serves in a namespace until it is disposed of. */
async function server(namespace: Namespace, address: string): Promise<AsyncDisposable> {
  const child = spawn("ip", ["netns", "exec", namespace.name, process.execPath, peer, "serve", address], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  const [said] = await Promise.race([once(child.stdout, "data"), ended]);
  assert.is(String(said), "ready\n");
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

function talk(namespace: Namespace, ...words: string[]): void {
  namespace.exec(process.execPath, peer, ...words);
}

/** At each pause, one of the steps; behind the last, the wish to stop. */
function watch(...steps: (() => unknown)[]): Watch {
  let stopped = false;
  return {
    get stopped() {
      return stopped;
    },
    now: () => performance.now(),
    monotonic: () => process.hrtime.bigint(),
    date: () => Date.now(),
    size: () => ({ columns: 0, rows: 0 }),
    async pause(milliseconds) {
      const step = steps.shift();
      if (step) await step();
      await new Promise((wake) => setTimeout(wake, milliseconds));
      stopped = step === undefined;
      return stopped ? "stopped" : "elapsed";
    },
    [Symbol.dispose]() {},
  };
}

/** Follows while these steps are taken, one between two looks. */
async function follow(world: Pod, argv: string[], ...steps: (() => unknown)[]) {
  return await remoraWith(
    { watch: async () => watch(...steps) },
    ...["flows", "web", "--bpffs", world.bpffs, "--follow", "--interval", "0.05", ...argv],
  );
}

/** Each line of a text as what it is in JSON. */
function objects(text: string) {
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/** IPv4 flow records of an IPFIX file, as libfixbuf's ipfixDump reads them (tshark would take as long as all else here). */
function records(path: string) {
  const text = run("sh", "-c", `exec ipfixDump --in ${path} 2>&1`);
  assert.not.match(text, /WARNING/, "such as a wrong sequence number");
  return text.split("--- data record ").flatMap((record) => {
    const values = new Map(
      [...record.matchAll(/^\t\([\d/]+\) *(\w+) : (.*)$/gm)].map(([, name, value]) => [name, value]),
    );
    const at = (name: string): number => Number(values.get(name));
    const source = values.get("sourceIPv4Address");
    if (source === undefined) return [];
    return {
      flow: `${source} ${values.get("destinationIPv4Address")} ${at("protocolIdentifier")} ${at("destinationTransportPort")}`,
      sourcePort: at("sourceTransportPort"),
      packets: [at("packetDeltaCount"), at("reversePacketDeltaCount")] as const,
      octets: [at("octetDeltaCount"), at("reverseOctetDeltaCount")] as const,
      dropped: [at("droppedPacketDeltaCount"), at("reverseDroppedPacketDeltaCount")] as const,
      status: [at("forwardingStatus"), at("reverseForwardingStatus")] as const,
      reason: at("flowEndReason"),
    };
  });
}

async function flows(world: Pod, ...argv: string[]) {
  return remoraWith({ watch: async () => watch() }, "flows", "web", "--bpffs", world.bpffs, ...argv);
}

async function json(world: Pod, ...argv: string[]) {
  const { status, stdout, stderr } = await flows(world, "--json", ...argv);
  assert.is(status, 0, stderr);
  return JSON.parse(stdout);
}

/** What `count` counted of a protocol: wire packets and bytes of each direction. */
async function counted(world: Pod, what: string): Promise<{ ingress: unknown[]; egress: unknown[] }> {
  const { stdout } = await remoraWith({}, "maps", "web", "count", "--json", "--bpffs", world.bpffs);
  const maps = (JSON.parse(stdout) as { maps: ShownMap[] }).maps;
  const of = (direction: string): unknown[] => {
    const map = maps.find(({ at }) => at[0]?.direction === direction);
    const { wire_packets, wire_bytes } = Object(map?.entries?.[0]?.value)[what];
    return [wire_packets, wire_bytes];
  };
  return { ingress: of("ingress"), egress: of("egress") };
}

test("what a pod sent and received is told, flow by flow", async () => {
  using world = scratch();
  const made = await logged(world, "flow-log");
  await using _ = await server(made.outside, "10.99.0.1");
  await using __ = await server(made.inside, "fd99::2");
  const before = Date.now();
  talk(made.inside, "send", "10.99.0.1", "200000");
  talk(made.outside, "send", "fd99::2", "1000");
  talk(made.inside, "refused", "10.99.0.1");
  made.outside.exec("ping", "-c", "3", "-i", "0.01", "10.99.0.2");
  const after = Date.now();
  made.inside.exec("bash", "-c", "echo discarded > /dev/udp/10.99.0.1/9");

  const { flows: all, logs } = await json(made);
  const find = (protocol: string, remotePort?: number, initiator?: string) =>
    all.filter(
      (flow: Record<string, unknown>) =>
        flow.protocol === protocol &&
        (remotePort === undefined || flow.remotePort === remotePort) &&
        (initiator === undefined || flow.initiator === initiator),
    );
  const [out, ...more] = find("tcp", 8080);
  assert.equal(more, []);
  const tcp = await counted(made, "ipv4_tcp");
  const [refused] = find("tcp", 81);
  assert.equal([out.local, out.remote, out.initiator, out.state], ["10.99.0.2", "10.99.0.1", "local", "closed"]);
  assert.equal([out.pod.name, out.ifname, out.connections], ["web", "eth0", 1]);
  assert.ok(out.sent.bytes > 200_000 && out.received.bytes > 30_000, JSON.stringify(out));
  for (const [side, direction] of [
    ["sent", "egress"],
    ["received", "ingress"],
  ] as const)
    assert.equal([out[side].packets + refused[side].packets, out[side].bytes + refused[side].bytes], tcp[direction]);
  assert.equal(
    out.sent.tcpFlags.split(" ").filter((flag: string) => /FIN|SYN|ACK/.test(flag)),
    ["FIN", "SYN", "ACK"],
  );
  assert.ok(out.rttMs > 0 && out.podRttMs > 0, "both halves of the handshake");
  const [first, last] = [Date.parse(out.first), Date.parse(out.last)];
  assert.ok(before - 5 <= first && first < last && last <= after + 5, `${before} ${first} ${last} ${after}`);
  assert.equal([refused.state, refused.sent.packets, refused.received.packets], ["reset", 1, 1]);
  assert.equal([refused.sent.tcpFlags, refused.received.tcpFlags], ["SYN", "RST ACK"]);

  const [inbound] = find("tcp", undefined, "remote");
  assert.equal([inbound.local, inbound.localPort, inbound.remote], ["fd99::2", 8080, "fd99::1"]);
  assert.equal(inbound.state, "closed");
  assert.ok(inbound.received.bytes > 1000 && inbound.sent.bytes > 30_000);
  const [ping] = find("icmp", undefined, "remote");
  assert.equal([ping.icmpType, ping.icmpCode, ping.sent.packets, ping.received.packets], [8, 0, 3, 3]);
  assert.equal([ping.sent.bytes, ping.received.bytes, ping.localPort], [294, 294, undefined]);
  const [discarded] = find("udp", 9);
  assert.equal([discarded.state, discarded.sent.packets, discarded.sent.bytes], ["oneway", 1, 14 + 20 + 8 + 10]);
  assert.equal([logs.length, logs[0].kept, logs[0].forgotten, logs[0].refused], [1, all.length, 0, 0]);
  assert.equal(logs[0].droppedBehind, [{ direction: "egress", program: "acl", packets: 1 }]);
  // That one was the last packet of its CPU, whose end is not in its record yet.
  assert.equal(
    [discarded.sent.dropped, discarded.droppedBy, out.sent.dropped, out.droppedBy],
    [1, "acl", 0, undefined],
  );
  const file = join(world.dir, "discarded.ipfix");
  assert.is((await flows(made, "--port", "9", "--ipfix", file)).status, 0);
  assert.equal(
    records(file).map(({ dropped, status }) => [dropped, status]),
    [
      [
        [1, 0],
        [129, 0],
      ],
    ],
  );

  // Filters, order and limit.
  // Each run relates the kernel's clock to the wall's anew, to a millisecond.
  const timeless = (list: Record<string, unknown>[]) => list.map((flow) => ({ ...flow, first: "", last: "" }));
  for (const [argv, flow] of [
    ["--proto icmp", ping],
    ["--port 81", refused],
    ["--addr fd99::/64 --proto tcp", inbound],
    ["--sort bytes --limit 1", out],
  ] as const)
    assert.equal(timeless((await json(made, ...argv.split(" "))).flows), timeless([flow]), argv);

  const page = await flows(made, "--proto", "tcp");
  // The kernels may have spoken to each other meanwhile.
  assert.match(page.stdout, /^shop\/web {2}eth0 {2}3 of \d+ flows; dropped behind flow-log: acl 1 \(egress\)\n/);
  assert.match(page.stdout, / +\d+s {2}tcp {4}out {2}.*10\.99\.0\.1:8080 .* ms .* closed\n/);
  assert.match(page.stdout, / tcp {4}in {3}.*\[fd99::1\]:\d+ .* closed\n/);
  assert.match(page.stdout, / 10\.99\.0\.1:81 .* 1\/1 .* reset\n/);
});

const ping = (world: Pod, count: number) => () =>
  world.inside.exec("ping", "-c", String(count), "-i", "0.01", "10.99.0.1");
const ipv4 = ["--addr", "10.99.0.0/24"];

test("an IPFIX file holds what the list says", async () => {
  using world = scratch();
  const made = await logged(world, "flow-log");
  await using _ = await server(made.inside, "10.99.0.2");
  talk(made.outside, "send", "10.99.0.2", "5000");
  ping(made, 2)();
  const path = join(world.dir, "flows.ipfix");
  writeFileSync(path, "something else");
  const written = await flows(made, ...ipv4, "--ipfix", path, "--json");
  assert.equal([written.status, written.stderr], [0, `2 flow records in ${path}\n`]);
  const { flows: all } = JSON.parse(written.stdout);
  assert.is(all.length, 2);
  const read = records(path);
  for (const flow of all) {
    const tcp = flow.protocol === "tcp";
    const found = read.find((each) => each.flow.split(" ")[2] === (tcp ? "6" : "1"));
    // Initiator first; 14 bytes of each packet are Ethernet's, which IPFIX does not count.
    const [forward, backward] = tcp ? [flow.received, flow.sent] : [flow.sent, flow.received];
    assert.equal(found, {
      flow: tcp ? "10.99.0.1 10.99.0.2 6 8080" : "10.99.0.2 10.99.0.1 1 2048",
      sourcePort: tcp ? flow.remotePort : 0,
      packets: [forward.packets, backward.packets],
      octets: [forward.bytes - 14 * forward.packets, backward.bytes - 14 * backward.packets],
      dropped: [0, 0],
      status: [64, 64],
      reason: tcp ? 3 : 2,
    });
  }
  assert.equal(
    readdirSync(world.dir).filter((name) => name.includes("ipfix")),
    ["flows.ipfix"],
  );
  // Anything but a file is written to as it is.
  assert.is((await flows(made, "--ipfix", "/dev/null")).status, 0);
  assert.is(run("stat", "-c", "%F %t:%T", "/dev/null"), "character special file 1:3\n");
});

test("a file of a pod with two interfaces has a domain for each, named", () => {
  using world = scratch();
  const path = join(world.dir, "flows.ipfix");
  const change: Change = {
    event: "new",
    flow: {
      ...{ key: "a", protocol: 17, initiator: "local", first: 1000, last: 2000, connections: 0 },
      local: { address: Buffer.from([10, 0, 0, 2]), port: 4000 },
      remote: { address: Buffer.from([10, 0, 0, 1]), port: 53 },
      sent: { packets: 1, bytes: 60, ipBytes: 46, tcpFlags: 0, retransmissions: 0, dropped: 0 },
      received: { packets: 1, bytes: 60, ipBytes: 46, tcpFlags: 0, retransmissions: 0, dropped: 0 },
      ...{ remoteRtt: undefined, podRtt: undefined, droppedBy: "" },
    },
    sent: { packets: 1, bytes: 60, ipBytes: 46, tcpFlags: 0, retransmissions: 0, dropped: 0 },
    received: { packets: 1, bytes: 60, ipBytes: 46, tcpFlags: 0, retransmissions: 0, dropped: 0 },
    since: 1000,
  };
  const [first, second] = ["eth0", "net1"].map(
    (ifname) =>
      ({
        status: { pod: { namespace: "shop", name: "web" }, containerId },
        record: { id: { network: "pods", containerId, ifname } },
      }) as Recorded,
  ) as [Recorded, Recorded];
  {
    using file = new FlowExport(path, [first, second], 5000);
    for (const recorded of [first, second, second, first]) {
      file.add(recorded, [change, change], 5000);
      file.flush();
    }
    assert.is(file.records, 8);
  }
  assert.is(records(path).length, 8, "and every sequence number follows");
  const fields = ["-T", "fields", "-e", "cflow.od_id", "-e", "cflow.observation_domain_name"];
  const lines = run("tshark", "-r", path, ...fields)
    .trimEnd()
    .split("\n");
  const [names, ...domains] = lines.map((line) => line.trim().split("\t"));
  const [one, two] = domains;
  assert.equal(names, [`0,${one},${two}`, "shop/web eth0,shop/web net1"]);
  assert.not.equal(one, two);
  assert.equal(domains, [one, two, two, one]);
});

test("--follow tells what is new and what changes; the records of its file add up to it", async () => {
  using world = scratch();
  const made = await logged(world, "flow-log");
  await using _ = await server(made.outside, "10.99.0.1");
  const path = join(world.dir, "flows.ipfix");
  let early = 0;
  const { status, stdout, stderr } = await follow(
    made,
    ["--json", "--ipfix", path, ...ipv4],
    ping(made, 2),
    () => {
      early = readFileSync(path).length;
      ping(made, 3)();
    },
    () => talk(made.inside, "send", "10.99.0.1", "70000"),
    () => {},
  );
  assert.is(status, 0, stderr);
  const told = objects(stdout);
  const of = (protocol: string) => told.filter((flow) => flow.protocol === protocol);
  assert.equal(
    of("icmp").map(({ event, sent, received }) => [event, sent.packets, received.packets]),
    [
      ["new", 2, 2],
      ["update", 5, 5],
    ],
  );
  const ended = of("tcp").at(-1);
  assert.equal([ended.event, ended.remotePort, ended.state], ["end", 8080, "closed"]);
  assert.ok(early > 200 && early < readFileSync(path).length, "the file was there while it was written to");
  const all = records(path);
  assert.is(stderr, `${all.length} flow records in ${path}\n`);
  for (const [flow, last] of [
    ["10.99.0.2 10.99.0.1 1 2048", of("icmp").at(-1)],
    ["10.99.0.2 10.99.0.1 6 8080", ended],
  ]) {
    const own = all.filter((each) => each.flow === flow);
    const sum = (side: 0 | 1): number => own.reduce((total, { packets }) => total + packets[side], 0);
    assert.equal([sum(0), sum(1)], [last.sent.packets, last.received.packets], flow);
    assert.is(own.at(-1)?.reason, last.event === "end" ? 3 : 2);
  }

  const lines = await follow(made, ipv4);
  assert.match(
    lines.stdout,
    /^\d\d:\d\d:\d\d\.\d{3} {2}new {5}icmp {2}10\.99\.0\.2 > 10\.99\.0\.1 {2}sent 5\/490B {2}/,
  );
  assert.match(
    lines.stdout,
    / {2}end {5}tcp {2}10\.99\.0\.2:\d+ > 10\.99\.0\.1:8080 {2}sent .* {2}rtt [\d.]+ ms {2}.*closed\n/,
  );
});

test("--follow goes on with a changed chain, ends with its log, and tells the last of it", async () => {
  using world = scratch();
  const made = await logged(world, "flow-log");
  const apply = (list: string) => async () => {
    const { status, stderr } = await remoraWith({}, "apply", "web", "--programs", list, "--bpffs", made.bpffs);
    assert.is(status, 0, stderr);
  };
  const { status, stdout, stderr } = await follow(
    made,
    ["--json", "--proto", "icmp"],
    ping(made, 2),
    async () => {
      ping(made, 1)();
      await apply("count")();
      await apply("count,flow-log")();
      ping(made, 4)();
    },
    async () => {
      ping(made, 3)();
      await apply("count")();
    },
  );
  assert.is(status, 0, stderr);
  assert.equal(
    objects(stdout).map(({ event, sent }) => [event, sent.packets]),
    [
      ["new", 2],
      ["update", 3], // of the former log, whose program was taken away
      ["new", 4], // of the one that came
      ["update", 7],
    ],
  );
  assert.is(stderr, "shop/web: the chain was changed or removed, and its log has ended\n");
});

test("the process ends in order by a signal, and with who reads it", async () => {
  using world = scratch();
  const made = await logged(world, "flow-log");
  ping(made, 1)();
  const path = join(world.dir, "flows.ipfix");
  const argv = [join(import.meta.dirname, "../main.ts"), "flows", "web", "--bpffs", made.bpffs, "--follow", "--json"];
  const child = spawn(process.execPath, [...argv, "--ipfix", path], { stdio: ["ignore", "pipe", "pipe"] });
  const ended = once(child, "exit");
  await Promise.race([once(child.stdout, "data"), ended]);
  child.kill("SIGINT");
  assert.equal(await ended, [0, null]);
  assert.is(records(path).length, 1);
  const { status } = spawnSync("sh", ["-c", `${[process.execPath, ...argv].join(" ")} | head -1`], { timeout: 20_000 });
  assert.is(status, 0);
});

test("DNS, asked by the pod: answers, refusals and silence", async () => {
  using world = scratch();
  const made = await logged(world, "dns-log");
  await using _ = await server(made.outside, "10.99.0.1");
  talk(made.inside, "ask", "10.99.0.1", "A", "Web.There.test");
  talk(made.inside, "ask", "10.99.0.1", "AAAA", "missing.test");
  talk(made.inside, "ask", "10.99.0.1", "TXT", "silent.test");
  const { transactions } = await json(made, "--dns");
  assert.equal(
    transactions.map(({ sequence, direction, client, server, serverPort, name, type, queries, answer }: never) => [
      ...[sequence, direction, client, server, serverPort, name, type, queries],
      answer && [(answer as { rcode: string }).rcode, (answer as { records: number }).records],
    ]),
    [
      [1, "egress", "10.99.0.2", "10.99.0.1", 53, "web.there.test", "A", 1, ["NOERROR", 1]],
      [2, "egress", "10.99.0.2", "10.99.0.1", 53, "missing.test", "AAAA", 1, ["NXDOMAIN", 0]],
      [3, "egress", "10.99.0.2", "10.99.0.1", 53, "silent.test", "TXT", 1, null],
    ],
  );
  const [first, second, third] = transactions;
  assert.ok(first.answer.latencyMs > 0 && first.answer.latencyMs < 60_000);
  assert.ok(Date.parse(first.asked) < Date.parse(second.asked) && Date.parse(third.asked) <= Date.now());
  assert.is(first.class, "IN");
  assert.equal((await json(made, "--dns", "--limit", "1")).transactions.length, 1);
  assert.equal((await json(made, "--dns", "--addr", "10.98.0.0/16")).transactions, []);
  const page = await flows(made, "--dns");
  assert.match(page.stdout, / out {2}10\.99\.0\.1:53 {2}A {5}web\.there\.test {2}NOERROR {5}.*1 .* ms\n/);
  assert.match(page.stdout, / TXT {3}silent\.test {5}none\n$/);

  // What is answered is told at once, what is not at the end.
  const followed = await follow(made, ["--dns", "--json"], () =>
    talk(made.inside, "ask", "10.99.0.1", "A", "later.there.test"),
  );
  assert.is(followed.status, 0, followed.stderr);
  assert.equal(
    objects(followed.stdout).map(({ name, answer }) => [name, answer?.rcode]),
    [
      ["web.there.test", "NOERROR"],
      ["missing.test", "NXDOMAIN"],
      ["later.there.test", "NOERROR"],
      ["silent.test", undefined],
    ],
  );
  const lines = (await follow(made, ["--dns"])).stdout;
  assert.match(
    lines,
    /^\d\d:\d\d:\d\d\.\d{3} {2}10\.99\.0\.2:\d+ > 10\.99\.0\.1:53 {2}A {2}web\.there\.test {2}NOERROR {2}1 record {2}/,
  );
  assert.match(lines, / {2}TXT {2}silent\.test {2}no answer\n/);
});

test("what cannot be done is said", async () => {
  using world = scratch();
  const foreign = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u64); } HERE SEC(".maps");
SEC("tc") int handle(struct __sk_buff *skb)
{
	__u32 key = 0;
	return bpf_map_lookup_elem(&HERE, &key) ? -1 : 0;
}
char _license[] SEC("license") = "GPL";`;
  const made = await pod(
    world,
    { "remora.io/programs": "count, flow-log, dns-log" },
    { "flow-log": foreign.replaceAll("HERE", "flows"), "dns-log": foreign.replaceAll("HERE", "others") },
  );
  const table: [string[], number, string][] = [
    [
      [],
      1,
      "the records of this pod's flow-log cannot be read: they have no family as this version of Remora knows it",
    ],
    [["--dns"], 1, "the program dns-log of shop/web has no map transactions: it is another one of that name"],
    [["--dns", "--ipfix", "x"], 2, "IPFIX has no elements for DNS transactions"],
    [["--dns", "--sort", "bytes"], 2, "--sort with --dns"],
    [["--sort", "size"], 2, "--sort size: give one of last, first, bytes, packets, rtt, resent"],
    [["--follow", "--limit", "1"], 2, "they do not go with --follow"],
    [["--interval", "2"], 2, "--interval goes with --follow"],
    [["--follow", "--interval", "0"], 2, "--interval 0: give a number from 0.05 to 3600"],
    [["--limit", "1.5"], 2, "--limit 1.5: give a whole number"],
    [["--proto", "tpc"], 2, "--proto tpc: give one of"],
  ];
  for (const [argv, status, words] of table) {
    const outcome = await flows(made, ...argv);
    assert.equal([outcome.status, outcome.stdout], [status, ""], argv.join(" "));
    assert.match(outcome.stderr, words);
  }
  assert.not(existsSync("x"));

  const apply = async (list: string) =>
    assert.is((await remoraWith({}, "apply", "web", "--programs", list, "--bpffs", made.bpffs)).status, 0);
  await apply("count");
  const missing = await flows(made);
  assert.is(missing.status, 1);
  assert.match(
    missing.stderr,
    "shop/web has no flow-log; its programs are: count. Add flow-log to its annotation remora.io/programs, or to the running pod with remora apply",
  );
  const nobody = await remoraWith({ watch: async () => watch() }, "flows", "nobody", "--bpffs", made.bpffs);
  assert.equal([nobody.status, /no pod or container "nobody"/.test(nobody.stderr)], [1, true]);
  assert.is((await remoraWith({}, "flows", "--bpffs", made.bpffs)).status, 2);

  install(world, "flow-log");
  await apply("flow-log");
  const nowhere = await flows(made, "--ipfix", join(world.dir, "nowhere/flows.ipfix"));
  assert.is(nowhere.status, 1);
  assert.match(
    nowhere.stderr,
    /--ipfix .*\/nowhere\/flows\.ipfix cannot be written: ENOENT: no such file or directory\n$/,
  );
  const full = await flows(made, "--ipfix", "/dev/full");
  assert.is(full.status, 1);
  assert.match(full.stderr, "--ipfix /dev/full cannot be written: ENOSPC: no space left on device");
});

test.run();
