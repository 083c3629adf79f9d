// SPDX-License-Identifier: Apache-2.0
/** `remora trace` on the real kernel: echo requests that pass two programs and are dropped by the third. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Pod, pod, remora, remoraWith } from "../../e2e/lib/pod.ts";
import { run, type Scratch, scratch } from "../../e2e/lib/scratch.ts";
import { pinsOf } from "../chain/pins.ts";
import { settle } from "../chain/settle.ts";
import { createNativeKernel } from "../kernel/native.ts";
import type { AttachmentStatus } from "../model.ts";
import type { Watch } from "./command.ts";

const head = `#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
`;
const licence = `char _license[] SEC("license") = "GPL";`;
const texts = {
  first: `${head}__u64 seen; SEC("tc") int handle(struct __sk_buff *skb) { seen++; return TC_ACT_OK; } ${licence}`,
  second: `${head}SEC("tc") int handle(struct __sk_buff *skb) { skb->mark = 77; return TC_ACT_PIPE; } ${licence}`,
  third: `${head}const volatile __u32 drop = 1;
    SEC("tc") int handle(struct __sk_buff *skb)
    {
      __u8 protocol = 0;
      if (skb->protocol != bpf_htons(0x0800)) return TC_ACT_UNSPEC;
      bpf_skb_load_bytes(skb, 14 + 9, &protocol, 1);
      return protocol == drop ? TC_ACT_SHOT : TC_ACT_UNSPEC;
    } char _license[] SEC("license") = "Proprietary";`,
};

/** ICMP is dropped on its way in, everything else passes; on the way out there are two programs. */
function guarded(world: Scratch): Promise<Pod> {
  const entries = [
    { program: "first", directions: ["ingress", "egress"] },
    { program: "second", directions: ["ingress", "egress"] },
    { program: "third", directions: ["ingress"] },
  ];
  return pod(world, { "remora.io/programs": JSON.stringify(entries) }, texts);
}

/** Traces; when it waits for the first time, there is traffic, and when `enough` packets were shown or 30 s passed, it is stopped. */
async function trace(world: Pod, traffic: () => void, argv: string[], enough = Number.POSITIVE_INFINITY) {
  const started = performance.now();
  let sent = false;
  let quiet = 0;
  const written: string[] = [];
  const watch: Watch = {
    stopped: false,
    now: () => performance.now(),
    monotonic: () => process.hrtime.bigint(),
    date: () => Date.now(),
    size: () => ({ columns: 0, rows: 0 }),
    async pause(milliseconds) {
      if (!sent) traffic();
      sent = true;
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
      // Where nothing is to be shown, a while without any packet is the end.
      quiet = milliseconds > 0 ? quiet + 1 : 0;
      return written.length >= enough || quiet > 10 || performance.now() - started > 30_000 ? "stopped" : "elapsed";
    },
    [Symbol.dispose]() {},
  };
  const outcome = await remoraWith(
    { watch: async () => watch, stdout: (text) => void written.push(text) },
    "trace",
    "web",
    "--bpffs",
    world.bpffs,
    ...argv,
  );
  return { ...outcome, written, packets: argv.includes("--json") ? written.map((line) => JSON.parse(line)) : [] };
}

const ping = (world: Pod, count: number) => () => {
  spawnSync("ip", [
    "netns",
    "exec",
    world.outside.name,
    "ping",
    "-c",
    `${count}`,
    "-i",
    "0.01",
    "-W",
    "0.1",
    "10.99.0.2",
  ]);
};

async function statusOf(world: Pod): Promise<AttachmentStatus> {
  const { stdout } = await remora("status", "web", "--json", "--bpffs", world.bpffs);
  return JSON.parse(stdout).attachments[0];
}

test("an echo request passes two programs and is dropped by the third", async () => {
  using world = scratch();
  const pod = await guarded(world);
  // Whether it may run is no question any more, neither for the node's chain nor for this namespace.
  writeFileSync(join(world.dir, "programs/second.yaml"), "nodeWide: false\nnamespaces: [bank]\n", { mode: 0o644 });
  const before = await statusOf(pod);
  const { status, stderr, packets } = await trace(pod, ping(pod, 3), ["--json", "--proto", "icmp", "--count", "3"]);
  assert.is(status, 0, stderr);
  assert.is(packets.length, 3);
  for (const [index, packet] of packets.entries()) {
    const { time, containerId, detail, ...rest } = packet;
    assert.match(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$/);
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000);
    assert.match(detail, new RegExp(`^echo request id \\d+ seq ${index + 1}$`));
    assert.equal(rest, {
      pod: { namespace: "shop", name: "web", uid: "u1" },
      ifname: "eth0",
      direction: "ingress",
      at: "pod",
      protocol: "icmp",
      source: "10.99.0.1",
      destination: "10.99.0.2",
      length: 98,
      mark: 0,
      hops: [
        { position: 0, program: "first", verdict: "OK", length: 98, mark: 0 },
        { position: 1, program: "second", verdict: "PIPE", length: 98, mark: 77 },
        { position: 2, program: "third", verdict: "SHOT", length: 98, mark: 77 },
      ],
      end: { how: "shot", why: "dropped by third (SHOT)" },
      dropped: true,
    });
  }
  assert.match(stderr, /^tracing shop\/web eth0: ingress first > second > third, egress first > second; Ctrl-C ends\n/);
  assert.match(stderr, /\n3 packets, 3 dropped\n$/);

  // Counters went on, nothing of the trace is left, and the chain works as before.
  const after = await statusOf(pod);
  assert.is((after.ingress[2]?.ended.shot ?? 0) - (before.ingress[2]?.ended.shot ?? 0), 3);
  assert.is(after.generation, 1);
  assert.not.match(run("find", pod.bpffs), "trace");
  ping(pod, 2)();
  assert.is((await statusOf(pod)).ingress[2]?.ended.shot, (after.ingress[2]?.ended.shot ?? 0) + 2);
  const maps = JSON.parse((await remora("maps", "web", "first", "--json", "--bpffs", pod.bpffs)).stdout).maps;
  assert.is(
    maps[0].entries[0].value.seen,
    (await statusOf(pod)).ingress[0]?.packets,
    "one map before, during and after",
  );
});

test("each filter chooses", async () => {
  using world = scratch();
  const pod = await guarded(world);
  const traffic = () => {
    ping(pod, 2)();
    pod.inside.exec("bash", "-c", "echo hello > /dev/udp/10.99.0.1/5353");
    // TCP to a closed port: a SYN in, a RST out.
    spawnSync("ip", ["netns", "exec", pod.outside.name, "bash", "-c", "exec 3<>/dev/tcp/10.99.0.2/81"]);
  };
  const show = async (...argv: string[]) =>
    (await trace(pod, traffic, ["--json", ...argv])).packets.map(({ direction, protocol, destinationPort, detail }) =>
      `${direction} ${protocol}${destinationPort === undefined ? "" : ` ${destinationPort}`} ${/SYN|RST/.exec(detail ?? "") ?? ""}`.trim(),
    );
  const tcp = ["ingress tcp 81 SYN"];
  assert.equal(await show("--port", "81", "--direction", "ingress"), tcp);
  const both = await show("--proto", "tcp");
  assert.equal([both[0], /^egress tcp \d+ RST$/.test(both[1] ?? "")], ["ingress tcp 81 SYN", true]);
  // The third, where there is one, is the peer's answer to the datagram: port unreachable.
  assert.equal((await show("--proto", "icmp", "--only-dropped")).slice(0, 2), ["ingress icmp", "ingress icmp"]);
  assert.equal(await show("--only-dropped", "--direction", "egress"), []);
  assert.equal(await show("--addr", "10.99.0.0/24", "--proto", "udp"), ["egress udp 5353"]);
  assert.equal(await show("--addr", "10.98.0.0/16"), []);
  assert.equal(await show("--proto", "icmp", "--count", "1"), ["ingress icmp"]);
  assert.ok((await show("--sample", "1/1000000")).length === 0);
});

test("the page, and a file that carries each packet's way as its comment", async () => {
  using world = scratch();
  const pod = await guarded(world);
  const page = await trace(pod, ping(pod, 1), ["--proto", "icmp", "--count", "1"]);
  assert.match(
    page.written.join(""),
    /^\d\d:\d\d:\d\d\.\d{6} {2}ingress {2}icmp {2}10\.99\.0\.1 > 10\.99\.0\.2 {2}echo request id \d+ seq 1 {2}98 bytes\n {16}first OK > second PIPE > third SHOT: dropped by third \(SHOT\)\n$/,
  );
  const file = join(world.dir, "out.pcapng");
  const { status, written } = await trace(pod, ping(pod, 2), ["-w", file, "--count", "2", "--proto", "icmp"]);
  assert.is(status, 0);
  assert.equal(written, []);
  const bytes = readFileSync(file);
  const comment = "ingress: first OK > second PIPE > third SHOT: dropped by third (SHOT)";
  assert.is(bytes.toString("latin1").split(comment).length - 1, 2);
});

test("whoever traces and is killed leaves a chain that works, and the next one takes the trace away", async () => {
  using world = scratch();
  const pod = await guarded(world);
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, "../main.ts"), "trace", "web", "--bpffs", pod.bpffs],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  const [said] = await once(child.stderr, "data");
  child.kill("SIGKILL");
  await once(child, "close");
  assert.match(String(said), "tracing shop/web");
  assert.match(run("find", pod.bpffs), "/trace/ingress/chain");
  const shot = async () => (await statusOf(pod)).ingress[2]?.ended.shot ?? 0;
  const before = await shot();
  ping(pod, 2)();
  assert.is(await shot(), before + 2, "verdicts stay");
  const kernel = createNativeKernel();
  const record = { network: "pods", containerId: (await statusOf(pod)).containerId, ifname: "eth0" };
  assert.match(settle(kernel, pinsOf(pod.bpffs, record)) ?? "", "trace");
  assert.not.match(run("find", pod.bpffs), "trace");
  ping(pod, 2)();
  assert.is(await shot(), before + 4);
});

test("Ctrl-C, a pipe that is closed, and a program that has changed since", async () => {
  using world = scratch();
  const pod = await guarded(world);
  const main = join(import.meta.dirname, "../main.ts");
  for (const command of [
    `timeout -s INT 2 ${process.execPath} ${main} trace web --bpffs ${pod.bpffs}`,
    `${process.execPath} ${main} trace web --bpffs ${pod.bpffs} | head -1`,
  ]) {
    const pinging = `ip netns exec ${pod.outside.name} ping -c 100 -i 0.05 10.99.0.2 >/dev/null & pinger=$!`;
    const { stderr, error } = spawnSync("sh", ["-c", `${pinging}; ${command}; kill $pinger`], {
      timeout: 20_000,
      encoding: "utf8",
    });
    assert.is(error, undefined);
    assert.match(stderr, /\d+ packets?, \d+ dropped/);
    assert.not.match(run("find", pod.bpffs), "trace");
  }
  const full = await trace(pod, () => {}, ["-w", "/dev/full"]);
  assert.equal(
    [full.status, full.stderr],
    [1, "remora trace: --write /dev/full cannot be written: ENOSPC: no space left on device\n"],
  );
  const directory = join(world.dir, "programs");
  run("cp", join(directory, "second.bpf.o"), join(directory, "third.bpf.o"));
  const { status, stderr } = await remoraWith(
    {
      watch: async () => {
        throw new Error("not reached");
      },
    },
    "trace",
    "nobody",
    "--bpffs",
    pod.bpffs,
  );
  assert.is(status, 1);
  assert.match(stderr, 'no pod or container "nobody"');
  const changed = await trace(pod, () => {}, []);
  assert.is(changed.status, 1);
  assert.match(changed.stderr, "program third is not the one any more that is attached");
  assert.not.match(run("find", pod.bpffs), "trace");
});

test.run();
