// SPDX-License-Identifier: Apache-2.0
/**
 * What each program of the library costs a packet: nanoseconds of a test run (BPF_PROG_TEST_RUN) of a chain of one, above
 * a chain of one program that does nothing. The packets are small ones of one flow. A test run sends the same one again
 * and again, so the caches are warm; behind a system call that copied 64 KiB they are not. The last column has the first
 * packet after so much other memory that neither code nor maps are in the caches next to the processor.
 */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { ethernet, ipv4, ipv6, tcp, udp } from "../bpf/packets.ts";
import { scratch } from "../e2e/lib/scratch.ts";
import { openCatalog } from "../plugin/catalog/catalog.ts";
import { readParameters, setParameter } from "../plugin/catalog/parameters.ts";
import { createNativeKernel } from "../plugin/kernel/native.ts";
import type { Fd, KernelPort } from "../plugin/kernel/port.ts";
import { loadChain, testRun } from "./chain.ts";
import { interleave, median, table } from "./figures.ts";
import { empty, library } from "./library.ts";

const packets = {
  "TCP, IPv4": ethernet(ipv4({}, tcp())),
  "UDP, IPv4": ethernet(ipv4({}, udp({ destination: 443 }, Buffer.alloc(64)))),
  "TCP, IPv6": ethernet(ipv6({}, tcp())),
  "UDP, IPv6": ethernet(ipv6({}, udp({ destination: 443 }, Buffer.alloc(64)))),
};

/** What the pod's interface would say: it is what the packets say. */
const filled: Record<string, Record<string, string>> = {
  guard: { addresses: "10.0.0.1/32, 2001:db8::1/128", mac: "02:00:00:00:00:01" },
  mirror: { directions: "2", source_ipv4: "10.0.0.1" },
};

/** Doubles that take the place of everything else in these caches: 1 MiB. */
const other = new Float64Array(1 << 17);
const line = 8;

/** Nanoseconds of one run, a median of so many; the kernel's clock tells tens of them. */
function coldRun(kernel: KernelPort, program: Fd, packet: Buffer, times: number): number {
  const runs = Array.from({ length: times }, () => {
    for (let at = 0; at < other.length; at += line) other[at] = (other[at] ?? 0) + 1;
    return testRun(kernel, program, packet, 1);
  });
  return median(runs);
}

/** Test runs of one measurement, and of a cold one. */
export async function programs(options: { rounds: number; repeat: number; cold: number }): Promise<string> {
  using world = scratch();
  const kernel = createNativeKernel();
  const catalog = await openCatalog([resolve(import.meta.dirname, "../dist/programs")], kernel);
  const chains: { name: string; head: Fd }[] = [
    { name: "nothing", ...loadChain(kernel, readFileSync(world.compile(empty)), empty.name, 1) },
  ];
  for (const { program, params } of library) {
    const { object, entry } = catalog.get(program);
    const parameters = readParameters(program, kernel.inspectObject(object));
    const values = Object.entries({ ...params, ...filled[program] }).flatMap(
      ([name, text]) => setParameter(parameters, name, text).bytes,
    );
    chains.push({ name: program, ...loadChain(kernel, object, entry.egress ?? entry.ingress ?? "", 1, values) });
  }
  const measure = (run: (head: Fd) => number) =>
    interleave(options.rounds, Object.fromEntries(chains.map(({ name, head }) => [name, () => run(head)])));
  const columns = [
    ...Object.values(packets).map((packet) => measure((head) => testRun(kernel, head, packet, options.repeat))),
    measure((head) => coldRun(kernel, head, packets["TCP, IPv4"], options.cold)),
  ];
  const rows = chains.map(({ name }) => [
    name,
    ...columns.map((results) => {
      const [ours, nothing] = [results[name] ?? [], results.nothing ?? []];
      const above = median(ours.map((value, round) => value - (nothing[round] ?? 0)));
      return name === "nothing" ? `(${median(nothing).toFixed(0)} ns)` : `${above.toFixed(0)} ns`;
    }),
  ]);
  return `A program's cost on egress above a chain that does nothing: medians of ${options.rounds} interleaved test runs of ${options.repeat} packets\n${table([["program", ...Object.keys(packets), "TCP, IPv4, cold"], ...rows])}`;
}
