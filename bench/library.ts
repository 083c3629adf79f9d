// SPDX-License-Identifier: Apache-2.0
/** The library's programs as users would ask for them, so that each does its work and lets the bench's traffic pass. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";

export interface Asked {
  program: string;
  params: Record<string, string>;
}

/** An address on the test network that nobody has: what a program sends there goes nowhere. */
export const collector = "10.98.0.9";

const asked: Asked[] = [
  { program: "count", params: {} },
  { program: "acl", params: { rules: "deny tcp 192.0.2.0/24; deny udp any 7; allow any" } },
];

/** A program that does nothing: what it costs is the chain. */
export const empty = {
  name: "empty",
  text: `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int empty(struct __sk_buff *skb) { return -1; }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
`,
};

/** What was built of it. */
export const library = asked.filter(({ program }) =>
  existsSync(join(resolve(import.meta.dirname, "../bpf"), `${program}.bpf.c`)),
);

/** An accounting, a marking, a limit and a filter: what a busy node's pod has. */
export const fourPrograms = ["count", "mark-dscp", "rate-limit", "acl"].flatMap((name) =>
  library.filter(({ program }) => program === name),
);
