// SPDX-License-Identifier: Apache-2.0
/** The library's programs as users would ask for them, so that each does its work and lets the bench's traffic pass. */
import { programs } from "../scripts/make/programs.ts";

export interface Asked {
  program: string;
  params: Record<string, string>;
}

/** A program that does nothing: what it costs is the chain. */
export const empty = {
  name: "empty",
  text: `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int empty(struct __sk_buff *skb) { return -1; }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
`,
};

const params: Record<(typeof programs)[number], Record<string, string>> = {
  acl: { rules: "deny tcp 192.0.2.0/24; deny udp any 7; allow any" },
  "conn-limit": { max: "1000", max_per_remote: "100" },
  count: {},
  "dns-log": {},
  fault: { rules: "deny udp any 7", drop: "100%" },
  "flow-log": {},
  guard: {},
  "mark-dscp": { dscp: "AF21" },
  // Nobody has this address: the copies are made, and leave the pod.
  mirror: { collector: "10.98.0.9", sample: "1%", truncate: "128" },
  "rate-limit": { rate: "900Gbit" },
};

export const library: Asked[] = programs.map((program) => ({ program, params: params[program] }));

const chainOf = (...names: string[]): Asked[] => library.filter(({ program }) => names.includes(program));

/** What a busy node's pod has: accounting, a filter, a marking, and an address that is its own. */
export const fourPrograms = chainOf("count", "acl", "mark-dscp", "guard");
/** The same with programs that keep a record or a bucket, which they lock, for each packet. */
export const fourStateful = chainOf("flow-log", "acl", "mark-dscp", "rate-limit");
