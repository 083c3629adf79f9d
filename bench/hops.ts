// SPDX-License-Identifier: Apache-2.0
/**
 * What a hop costs: N programs of one map lookup each on a device's egress hook, as Remora's chain and as N plain
 * entries of the kernel's own TCX list, against the same path without them. In each case a last TCX program drops the
 * packet, so that nothing behind the hook is measured, and packets come from a program that clones them onto the
 * device, so that no socket and no system call is. Run it in a network namespace of its own.
 */
import { readFileSync } from "node:fs";
import { run, scratch } from "../e2e/lib/scratch.ts";
import { createNativeKernel } from "../plugin/kernel/native.ts";
import type { Fd } from "../plugin/kernel/port.ts";
import { loadChain, testRun, u32 } from "./chain.ts";
import { interleave, median, ratio, table } from "./figures.ts";

const netns = "/proc/self/ns/net";
/** Packets that one run of the sending program clones onto the device. */
const burst = 64;

const program = (body: string): { text: string } => ({
  text: `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
${body}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
`,
});
const lookup = program(`
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");
SEC("tc") int lookup(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&seen, &key);

	if (value)
		*value += 1;
	return -1;
}`);
const drop = program(`SEC("tc") int drop(struct __sk_buff *skb) { return 2; }`);
const send = program(`
const volatile __u32 device = 0;
SEC("tc") int send(struct __sk_buff *skb)
{
	for (int i = 0; i < ${burst}; i++)
		bpf_clone_redirect(skb, device, 0);
	return 0;
}`);

/** `bursts`: how many times 64 packets one measurement sends. */
export function hops(options: { rounds: number; bursts: number }): string {
  using world = scratch();
  const kernel = createNativeKernel();
  run("ip", "link", "add", "bench0", "type", "veth", "peer", "bench1");
  for (const device of ["lo", "bench0", "bench1"]) run("ip", "link", "set", device, "up");
  const { ifindex } = kernel.findInterface(netns, "bench0");

  /** The unchanged program, loaded by the kernel tree's own tool. */
  let pins = 0;
  const loadPlain = (object: string): Fd => {
    const pin = `${world.bpffs()}/plain${++pins}`;
    run("bpftool", "prog", "load", object, pin, "type", "classifier");
    const { fd } = kernel.openPin(pin);
    kernel.removePin(pin);
    return fd;
  };
  const lookupObject = world.compile(lookup);
  const dropper = loadPlain(world.compile(drop));
  const sender = loadChain(kernel, readFileSync(world.compile(send)), "send", 1, [
    { name: "device", bytes: u32(ifindex) },
  ]);
  /** Nanoseconds a packet, with these programs attached in this order. */
  const measure = (programs: Fd[]): number => {
    const links = programs.map((one) => kernel.attachTcx({ program: one, netns, ifindex, direction: "egress" }));
    try {
      return testRun(kernel, sender.head, Buffer.alloc(64), options.bursts) / burst;
    } finally {
      for (const link of links) kernel.close(link);
    }
  };

  const rows = [["programs", "bare path", "TCX list", "chain", "TCX list/hop", "chain/hop", "chain / TCX list"]];
  for (const count of [1, 2, 4, 8, 16, 32]) {
    const plain = Array.from({ length: count }, () => loadPlain(lookupObject));
    const chain = loadChain(kernel, readFileSync(lookupObject), "lookup", count);
    const results = interleave(options.rounds, {
      bare: () => measure([dropper]),
      list: () => measure([...plain, dropper]),
      chain: () => measure([chain.head, dropper]),
    });
    const above = (values: number[]): number[] => values.map((value, round) => value - (results.bare[round] ?? 0));
    const [list, ours] = [above(results.list), above(results.chain)];
    rows.push([
      String(count),
      ...[results.bare, list, ours].map((values) => `${median(values).toFixed(0)} ns`),
      ...[list, ours].map((values) => `${(median(values) / count).toFixed(1)} ns`),
      ratio(ours, list).toFixed(2),
    ]);
    for (const fd of [...plain, ...chain.fds]) kernel.close(fd);
  }
  for (const fd of [dropper, ...sender.fds]) kernel.close(fd);
  const packets = options.bursts * burst;
  return `A packet's cost above the bare path: medians of ${options.rounds} interleaved runs of ${packets} packets\n${table(rows)}`;
}
