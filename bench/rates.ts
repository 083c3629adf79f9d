// SPDX-License-Identifier: Apache-2.0
/**
 * How near rate-limit comes to its rate: goodput (payload that arrived) of one TCP stream and of UDP datagrams that are
 * sent faster, by iperf3 between two pods, with the program at the sender's egress or at the receiver's ingress. Each
 * measurement begins with a full bucket. Run it in a network namespace of its own: that one is the node.
 */
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { run, scratch } from "../e2e/lib/scratch.ts";
import { table } from "./figures.ts";
import { daemon, type Pod, podOf } from "./pods.ts";

const dist = resolve(import.meta.dirname, "../dist");
const rates: Record<string, number> = { "1Mbit": 1e6, "10Mbit": 1e7, "100Mbit": 1e8, "1Gbit": 1e9, "5Gbit": 5e9 };
/** How much faster than the rate datagrams are sent. */
const excess = 1.2;

type Protocol = "tcp" | "udp";

/** `seconds`: of each measurement; the burst that a bucket begins with is worth 250 to 500 ms of it. */
export function rateAccuracy(options: { seconds: number }): string {
  using world = scratch();
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  cpSync(join(dist, "programs"), programs, { recursive: true });
  run("ip", "link", "set", "lo", "up");
  writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");
  const [client, server] = [podOf(world, 1), podOf(world, 2)];
  using iperf = daemon(server.namespace, "iperf3", "--server");

  /** Bits of payload a second that arrived; datagrams are sent at `offered`, 0 for as fast as possible. */
  const goodput = (protocol: Protocol, offered: number, seconds = options.seconds): number => {
    const argv = ["--client", server.address, "--time", String(seconds), "--json"];
    if (protocol === "udp") argv.push("--udp", "--bitrate", String(offered));
    const { end } = JSON.parse(client.namespace.exec("iperf3", ...argv));
    return protocol === "tcp"
      ? end.sum_received.bits_per_second
      : end.sum.bits_per_second * (1 - end.sum.lost_percent / 100);
  };
  iperf.await(() => goodput("tcp", 0, 1));
  const carried: Record<Protocol, number> = { tcp: goodput("tcp", 0), udp: goodput("udp", 0) };

  const limited = (pod: Pod, direction: string, rate: string, protocol: Protocol): number => {
    const place = ["--netns", pod.namespace.path, "--ifname", "eth0", "--bpffs", join(world.bpffs(), "remora")];
    const chain = [{ program: "rate-limit", params: { rate }, directions: [direction] }];
    run(join(dist, "remora"), "attach", ...place, "--dir", programs, "--programs", JSON.stringify(chain));
    try {
      return goodput(protocol, (rates[rate] ?? 0) * excess);
    } finally {
      run(join(dist, "remora"), "detach", ...place);
    }
  };
  const cells = (pod: Pod, direction: string, rate: string): string[] =>
    (["tcp", "udp"] as const).flatMap((protocol) => {
      const bits = rates[rate] ?? Number.NaN;
      if (carried[protocol] < bits) return ["not carried", ""];
      const reached = limited(pod, direction, rate, protocol);
      return [amount(reached), `${((100 * reached) / bits).toFixed(1)}%`];
    });
  const rows = [
    ["rate", "TCP, egress", "of rate", "UDP, egress", "of rate", "TCP, ingress", "of rate", "UDP, ingress", "of rate"],
  ];
  for (const rate of Object.keys(rates))
    rows.push([rate, ...cells(client, "egress", rate), ...cells(server, "ingress", rate)]);
  const without = `without a limit: TCP ${amount(carried.tcp)}, UDP ${amount(carried.udp)}`;
  return `Goodput under rate-limit, one run of ${options.seconds} s each from a full bucket; ${without}\n${table(rows)}`;
}

function amount(bits: number): string {
  return bits < 1e9 ? `${(bits / 1e6).toFixed(bits < 1e7 ? 2 : 1)} Mbit/s` : `${(bits / 1e9).toFixed(2)} Gbit/s`;
}
