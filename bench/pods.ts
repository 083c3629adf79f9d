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
import { mean, median, table } from "./figures.ts";
import { type Asked, empty, fourPrograms, fourStateful, library } from "./library.ts";

const dist = resolve(import.meta.dirname, "../dist");
/** iperf3's processors, of the client and of the server. */
const affinity = availableParallelism() > 1 ? "0,1" : "0,0";
/** Seconds after which a measurement of so many is given up. */
const patience = (seconds: number): string => String(seconds + 9);

/** `sent`: GB of each stream; `latency`: seconds of each measurement of it. */
export function pods(options: { rounds: number; sent: number; latency: number }): string {
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
    const words = `--client ${server.address} --bytes ${options.sent}G --affinity ${affinity} --congestion cubic --json`;
    const said = again(3, () => client.namespace.exec("timeout", patience(10), "iperf3", ...words.split(" ")));
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
  const chains: Record<string, Asked[]> = {
    "empty chain": [{ program: "empty", params: {} }],
    ...Object.fromEntries(library.map((asked) => [asked.program, [asked]])),
    ...Object.fromEntries(
      [fourPrograms, fourStateful].map((four) => [four.map(({ program }) => program).join(", "), four]),
    ),
  };
  /** Without a chain, with it, and without it again: a machine's speed is another a minute later. */
  const compare = (chain: Asked[]): Compared => {
    const without = { rates: [goodput()], waits: [latency()] };
    const list = JSON.stringify(chain);
    for (const pod of [client, server]) remora("attach", pod, "--dir", programs, "--programs", list);
    const beside = { rates: [goodput(), goodput()], waits: [latency()] };
    for (const pod of [client, server]) remora("detach", pod);
    without.rates.push(goodput());
    return { without, beside };
  };
  const all: Record<string, Compared[]> = Object.fromEntries(Object.keys(chains).map((name) => [name, []]));
  for (let round = 0; round < options.rounds; round++)
    for (const [name, chain] of Object.entries(chains)) all[name]?.push(compare(chain));

  const row = (name: string, measured: Measured[], rateShare: number, waitShare: number): string[] => [
    name,
    `${median(measured.flatMap(({ rates }) => rates)).toFixed(1)} Gbit/s`,
    `${(100 * rateShare).toFixed(1)}%`,
    `${median(measured.flatMap(({ waits }) => waits)).toFixed(1)} us`,
    `${(100 * waitShare).toFixed(1)}%`,
  ];
  const bare = Object.values(all).flatMap((compared) => compared.map(({ without }) => without));
  const share = (compared: Compared[], what: keyof Measured): number =>
    median(compared.map(({ beside, without }) => mean(beside[what]) / mean(without[what])));
  const rows = Object.entries(all).map(([name, compared]) => {
    const measured = compared.map(({ beside }) => beside);
    return row(name, measured, share(compared, "rates"), share(compared, "waits"));
  });
  const heading = ["chain", "throughput", "of none", "half a round trip", "of none"];
  const how = `medians of ${options.rounds} comparisons with streams of ${options.sent} GB just before and after`;
  return `Pod to pod, TCP: ${how}\n${table([heading, row("no chain", bare, 1, 1), ...rows])}`;
}

/** Gbit/s, and microseconds. */
interface Measured {
  rates: number[];
  waits: number[];
}
interface Compared {
  without: Measured;
  beside: Measured;
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
