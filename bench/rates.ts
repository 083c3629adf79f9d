// SPDX-License-Identifier: Apache-2.0
/**
 * How near rate-limit comes to its rate: goodput (payload that arrived in the time in which it was sent) of one TCP
 * stream under each congestion control that there is, and of UDP datagrams that are sent faster, by iperf3 between two
 * pods, with the program at the sender's egress or at the receiver's ingress. Each measurement begins with a full bucket,
 * and without what TCP remembers of the last one. Run it in a network namespace of its own: that one is the node.
 *
 * A frame of 1514 bytes has 1448 of TCP's payload, so a stream that fills the rate has 95.6% of it as goodput. The burst
 * at the beginning adds 2.5% of ten seconds (5% where it is worth 500 ms) if the bucket is empty at the end.
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { run, scratch } from "../e2e/lib/scratch.ts";
import { table } from "./figures.ts";
import { again, daemon, type Pod, podOf } from "./pods.ts";

const dist = resolve(import.meta.dirname, "../dist");
const rates: Record<string, number> = { "1Mbit": 1e6, "10Mbit": 1e7, "100Mbit": 1e8, "1Gbit": 1e9, "5Gbit": 5e9 };
/** How much faster than the rate datagrams are sent. */
const excess = 1.2;

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

  // `udp`, or a congestion control of TCP.
  const available = readFileSync("/proc/sys/net/ipv4/tcp_available_congestion_control", "utf8").trim().split(" ");
  const senders = ["cubic", "bbr"].filter((control) => available.includes(control)).concat("udp");
  client.namespace.exec("sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save");

  /** Bits of payload a second that arrived; datagrams are sent at `offered`, 0 for as fast as possible. */
  const goodput = (sender: string, offered: number, seconds = options.seconds): number => {
    const argv = ["--client", server.address, "--time", String(seconds), "--json"];
    argv.push(...(sender === "udp" ? ["--udp", "--bitrate", String(offered)] : ["--congestion", sender]));
    // What iperf3 says to its server passes the limit as well, and may get lost: now and then it waits for ever.
    const patience = String(seconds + 20);
    const { end } = JSON.parse(client.namespace.exec("timeout", patience, "iperf3", ...argv));
    // For the same reason its server may learn late of the end: the time that counts is the sender's.
    return sender === "udp"
      ? end.sum.bits_per_second * (1 - end.sum.lost_percent / 100)
      : (8 * end.sum_received.bytes) / end.sum_sent.seconds;
  };
  iperf.await(() => goodput("cubic", 0, 1));
  /** What arrives without a limit. Datagrams as fast as possible would only show how many a receiver can throw away. */
  const streams = Object.fromEntries(
    senders.filter((sender) => sender !== "udp").map((sender) => [sender, again(3, () => goodput(sender, 0), 2000)]),
  );
  const carried = (sender: string, bits: number): number =>
    streams[sender] ?? again(3, () => goodput(sender, bits * excess, 3), 2000);

  const limited = (pod: Pod, direction: string, rate: string, sender: string): number => {
    const place = ["--netns", pod.namespace.path, "--ifname", "eth0", "--bpffs", join(world.bpffs(), "remora")];
    const chain = [{ program: "rate-limit", params: { rate }, directions: [direction] }];
    run(join(dist, "remora"), "attach", ...place, "--dir", programs, "--programs", JSON.stringify(chain));
    try {
      return goodput(sender, (rates[rate] ?? 0) * excess);
    } finally {
      run(join(dist, "remora"), "detach", ...place);
    }
  };
  const cells = (pod: Pod, direction: string, rate: string, sender: string): string[] => {
    const reached = again(3, () => limited(pod, direction, rate, sender), 2000);
    return [amount(reached), `${((100 * reached) / (rates[rate] ?? Number.NaN)).toFixed(1)}%`];
  };
  const name = (sender: string): string => (sender === "udp" ? "UDP" : `TCP, ${sender}`);
  const rows = [["rate", "sender", "egress", "of rate", "ingress", "of rate"]];
  for (const [rate, bits] of Object.entries(rates))
    for (const sender of senders) {
      const without = carried(sender, bits);
      rows.push(
        without < bits
          ? [rate, name(sender), `carried: ${amount(without)}`, "", "", ""]
          : [rate, name(sender), ...cells(client, "egress", rate, sender), ...cells(server, "ingress", rate, sender)],
      );
    }
  const without = Object.entries(streams).map(([sender, bits]) => `${name(sender)} ${amount(bits)}`);
  return `Goodput under rate-limit, one run of ${options.seconds} s each from a full bucket; without a limit: ${without.join("; ")}\n${table(rows)}`;
}

function amount(bits: number): string {
  return bits < 1e9 ? `${(bits / 1e6).toFixed(bits < 1e7 ? 2 : 1)} Mbit/s` : `${(bits / 1e9).toFixed(2)} Gbit/s`;
}
