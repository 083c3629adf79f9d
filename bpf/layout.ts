// SPDX-License-Identifier: Apache-2.0
/** The members of the maps' values, in the order of the C structs, for tests that read them. */

/** `struct totals` of count: three words each. */
export const counted = [
  ...["ipv4_tcp", "ipv4_udp", "ipv4_icmp", "ipv4_other"],
  ...["ipv6_tcp", "ipv6_udp", "ipv6_icmp", "ipv6_other"],
  ...["arp", "other"],
] as const;

/** What was counted, by class: packets, wire packets, wire bytes. Classes without packets are left out. */
export function readTotals(words: number[]): Record<string, number[]> {
  const rows = counted.map((name, index) => [name, words.slice(index * 3, index * 3 + 3)] as const);
  return Object.fromEntries(rows.filter(([, row]) => row[0] !== 0));
}

const maxRules = 32;
const withoutRule = ["default", "neighbour", "malformed", "deny list"];

/** `struct decisions` of acl, a pair of ingress and egress each: `1 rule 0 ingress, 3 default egress`. */
export function readDecisions(words: number[]): string {
  const what = (at: number) => (at < maxRules ? `rule ${at}` : withoutRule[at - maxRules]);
  return words
    .map((count, at) => ({ count, text: `${count} ${what(at >> 1)} ${at % 2 ? "egress" : "ingress"}` }))
    .filter(({ count }) => count > 0)
    .map(({ text }) => text)
    .join(", ");
}

/** `struct packets` of guard. */
const guarded = [
  ...["passed_ipv4", "passed_ipv6", "passed_arp", "passed_discovery", "passed_dhcp"],
  ...["dropped_mac", "dropped_address", "dropped_neighbour", "dropped_router", "dropped_dhcp"],
  ...["dropped_vlan", "dropped_protocol", "dropped_malformed"],
];

/** Packets by decision, where there were any. */
export function readGuarded(words: number[]): Record<string, number> {
  return Object.fromEntries(
    guarded.map((name, at) => [name, words[at] ?? 0] as const).filter(([, count]) => count > 0),
  );
}

/** `struct verdicts` of rate-limit: packets and bytes on the wire. */
export interface RateVerdicts {
  conformed: Wire;
  marked: Wire;
  droppedByRate: Wire;
  droppedByPacketRate: Wire;
}
export interface Wire {
  packets: number;
  bytes: number;
}

export function readRateVerdicts(words: number[]): RateVerdicts {
  const at = (index: number): Wire => ({ packets: words[2 * index] ?? 0, bytes: words[2 * index + 1] ?? 0 });
  return { conformed: at(0), marked: at(1), droppedByRate: at(2), droppedByPacketRate: at(3) };
}

const outcomes = ["marked", "already", "unchanged", "notIp", "malformed", "failed", "tagged"] as const;

/** `struct markings` of mark-dscp, but for what is 0: outcomes of a direction, and packets by rule. */
export function readMarkings(words: number[], direction: "ingress" | "egress") {
  const index = direction === "ingress" ? 0 : 1;
  const counted = outcomes.map((name, at) => [name, words[index * outcomes.length + at] ?? 0] as const);
  const rules = words.slice(2 * outcomes.length).filter((_, at) => at % 2 === index);
  const hits = rules.map((count, at) => [at < maxRules ? `rule ${at}` : "default", count] as const);
  return Object.fromEntries([...counted, ...hits].filter(([, count]) => count > 0)) as Record<string, number>;
}

/** `struct seen` of fixtures/tos: packets by family and byte (`ipv4 184`), but for what is 0. */
export function readSeen(words: number[]): Record<string, number> {
  const named = words.map((count, at) => [`${at < 256 ? "ipv4" : "ipv6"} ${at % 256}`, count] as const);
  return Object.fromEntries(named.filter(([, count]) => count > 0));
}
