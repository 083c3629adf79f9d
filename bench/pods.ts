// SPDX-License-Identifier: Apache-2.0
/**
 * What two pods notice: the throughput of one TCP stream (iperf3) and how long a request and its response take
 * (sockperf), routed over the node as ptp does it, with the same chain in both directions of both pods. Run it in a
 * network namespace of its own: that one is the node.
 *
 * The two ends of the TCP stream have a processor each: left to the scheduler, some connections share one and some do
 * not, which differs by more than any chain does. And the stream is cubic's, the kernel's own default: BBR, which some
 * machines have instead, sends at the rate that it believes in, not as fast as the path allows.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { type Namespace, run, type Scratch, scratch } from "../e2e/lib/scratch.ts";
import { interleave, median, ratio, table } from "./figures.ts";
import { type Asked, empty, fourPrograms, fourStateful, library } from "./library.ts";

const dist = resolve(import.meta.dirname, "../dist");
/** iperf3's processors, of the client and of the server. */
const affinity = availableParallelism() > 1 ? "0,1" : "0,0";
/** Seconds after which a measurement of so many is given up. */
const patience = (seconds: number): string => String(seconds + 9);

/** Seconds: of each round's measurement of the throughput, and of the latency. */
export function pods(options: { rounds: number; throughput: number; latency: number }): string {
  using world = scratch();
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  cpSync(join(dist, "programs"), programs, { recursive: true });
  cpSync(world.compile(empty), join(programs, "empty.bpf.o"));
  run("ip", "link", "set", "lo", "up");
  writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");
  const [client, server] = [podOf(world, 1), podOf(world, 2)];

  using iperf = daemon(server.namespace, "iperf3", "--server");
  using sockperf = daemon(server.namespace, "sockperf", "server", "--tcp", "--ip", server.address);
  const goodput = (): number => {
    const words = `--client ${server.address} --time ${options.throughput} --affinity ${affinity} --congestion cubic --json`;
    const argv = words.split(" ");
    const said = again(3, () => client.namespace.exec("timeout", patience(options.throughput), "iperf3", ...argv));
    return JSON.parse(said).end.sum_received.bits_per_second / 1e9;
  };
  const latency = (): number => {
    const argv = ["ping-pong", "--tcp", "--ip", server.address, "--time", String(options.latency)];
    // Now and then sockperf waits for ever for its own server.
    const said = again(3, () => client.namespace.exec("timeout", patience(options.latency), "sockperf", ...argv));
    const [, text] = /percentile 50\.000 = +([\d.]+)/.exec(said) ?? [];
    if (text === undefined) throw new Error("sockperf prints no median");
    return Number(text);
  };
  for (const [service, measure] of [
    [iperf, goodput],
    [sockperf, latency],
  ] as const)
    service.await(measure);

  const remora = (verb: string, pod: Pod, ...rest: string[]): void => {
    const place = ["--netns", pod.namespace.path, "--ifname", "eth0", "--bpffs", join(world.bpffs(), "remora")];
    run(join(dist, "remora"), verb, ...place, ...rest);
  };
  const latencies: Record<string, number[]> = {};
  const measure = (name: string, chain: Asked[]) => (): number => {
    const list = JSON.stringify(chain);
    const attached = chain.length > 0 ? [client, server] : [];
    for (const pod of attached) remora("attach", pod, "--dir", programs, "--programs", list);
    try {
      latencies[name] ??= [];
      latencies[name].push(latency());
      return goodput();
    } finally {
      for (const pod of attached) remora("detach", pod);
    }
  };
  const chains: Record<string, Asked[]> = {
    "no chain": [],
    "empty chain": [{ program: "empty", params: {} }],
    ...Object.fromEntries(library.map((asked) => [asked.program, [asked]])),
    ...Object.fromEntries(
      [fourPrograms, fourStateful].map((four) => [four.map(({ program }) => program).join(", "), four]),
    ),
  };
  const goodputs = interleave(
    options.rounds,
    Object.fromEntries(Object.entries(chains).map(([name, chain]) => [name, measure(name, chain)])),
  );
  const percent = (ours: number[], theirs: number[]): string => `${(100 * ratio(ours, theirs)).toFixed(1)}%`;
  const rows = Object.keys(chains).map((name) => {
    // The first latency was the warm-up, which `interleave` leaves out of the throughput.
    const [waits, bare] = [name, "no chain"].map((one) => latencies[one]?.slice(1) ?? []) as [number[], number[]];
    const [rates, none] = [goodputs[name] ?? [], goodputs["no chain"] ?? []];
    return [
      name,
      `${median(rates).toFixed(2)} Gbit/s`,
      percent(rates, none),
      `${median(waits).toFixed(1)} us`,
      percent(waits, bare),
    ];
  });
  return `Pod to pod, TCP: medians of ${options.rounds} interleaved runs of ${options.throughput} s and ${options.latency} s\n${table([["chain", "throughput", "of none", "half a round trip", "of none"], ...rows])}`;
}

/** Does something that may fail, so many times at most. `pause`: seconds in between. */
export function again<T>(times: number, act: () => T, pause = "0"): T {
  for (let attempt = 1; ; attempt++)
    try {
      return act();
    } catch (error) {
      if (attempt === times) throw error;
      spawnSync("sleep", [pause]);
    }
}

export interface Pod {
  namespace: Namespace;
  address: string;
}

/** A pod with `eth0`, whose other end is on the node and leads to it alone. */
export function podOf(world: Scratch, index: number): Pod {
  const namespace = world.namespace();
  const [gateway, address, device] = [`10.98.${index}.1`, `10.98.${index}.2`, `pod${index}`];
  run("ip", "link", "add", device, "type", "veth", "peer", "eth0", "netns", namespace.name);
  run("ip", "addr", "add", `${gateway}/24`, "dev", device);
  run("ip", "link", "set", device, "up");
  for (const words of [`addr add ${address}/24 dev eth0`, "link set eth0 up", `route add default via ${gateway}`])
    namespace.exec("ip", ...words.split(" "));
  return { namespace, address };
}

/** A server of the namespace, ended with the block. */
export function daemon(namespace: Namespace, command: string, ...argv: string[]) {
  const child: ChildProcess = spawn("ip", ["netns", "exec", namespace.name, command, ...argv], { stdio: "ignore" });
  return {
    /** Waits until what asks the server is answered. */
    await(ask: () => unknown): void {
      again(50, ask, "0.1");
    },
    [Symbol.dispose]() {
      child.kill("SIGKILL");
    },
  };
}
