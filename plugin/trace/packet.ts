// SPDX-License-Identifier: Apache-2.0
/** The first bytes of a packet as people name it: from whom to whom, by which protocol. What was cut off is left out. */

export interface Flow {
  /** `arp`, `ethertype 0x88cc`, or the protocol's name: `icmp`, `tcp`, `udp`, `icmp6`, ...; a number where it has none here. */
  protocol: string;
  source?: string;
  destination?: string;
  sourcePort?: number;
  destinationPort?: number;
  /** What else the header says: `echo request id 5 seq 1`, `SYN ACK`, `fragment`. */
  detail?: string;
}

const protocols: Record<number, string> = {
  1: "icmp",
  2: "igmp",
  6: "tcp",
  17: "udp",
  33: "dccp",
  41: "ipv6",
  47: "gre",
  50: "esp",
  51: "ah",
  58: "icmp6",
  89: "ospf",
  112: "vrrp",
  132: "sctp",
  136: "udplite",
};
/** Names of protocols that a filter may give. */
export const protocolNames = ["arp", ...Object.values(protocols)];
const withPorts = new Set(["tcp", "udp", "udplite", "sctp", "dccp"]);

/** The name of an IP protocol, or its number where it has none here. */
export function protocolName(number: number): string {
  return protocols[number] ?? String(number);
}
export function hasPorts(protocol: string): boolean {
  return withPorts.has(protocol);
}

/** @param ethernet whether the device has Ethernet headers; without, the bytes begin with the network header. */
export function readFlow(bytes: Buffer, ethernet: boolean): Flow {
  if (!ethernet) return network(bytes, (bytes[0] ?? 0) >> 4 === 6 ? 0x86dd : 0x0800);
  let at = 12;
  let type = u16(bytes, at);
  while ((type === 0x8100 || type === 0x88a8) && at + 4 < bytes.length) {
    at += 4;
    type = u16(bytes, at);
  }
  return network(bytes.subarray(at + 2), type);
}

function network(bytes: Buffer, type: number): Flow {
  if (type === 0x0806) return arp(bytes);
  if (type === 0x0800 && bytes.length >= 20) return ipv4(bytes);
  if (type === 0x86dd && bytes.length >= 40) return ipv6(bytes);
  return { protocol: `ethertype 0x${type.toString(16).padStart(4, "0")}` };
}

function arp(bytes: Buffer): Flow {
  if (bytes.length < 28 || u16(bytes, 2) !== 0x0800) return { protocol: "arp" };
  const operation = u16(bytes, 6);
  return {
    protocol: "arp",
    source: address4(bytes, 14),
    destination: address4(bytes, 24),
    detail: operation === 1 ? "request" : operation === 2 ? "reply" : `operation ${operation}`,
  };
}

function ipv4(bytes: Buffer): Flow {
  const header = ((bytes[0] ?? 0) & 15) * 4;
  const offset = u16(bytes, 6) & 0x1fff;
  const addresses = { source: address4(bytes, 12), destination: address4(bytes, 16) };
  return transport(bytes[9] ?? 0, bytes.subarray(header), addresses, offset);
}

/** Extension headers: hop-by-hop, routing, fragment, destination options. */
function ipv6(bytes: Buffer): Flow {
  const addresses = { source: address6(bytes, 8), destination: address6(bytes, 24) };
  let next = bytes[6] ?? 59;
  let at = 40;
  let offset = 0;
  while ([0, 43, 44, 60].includes(next) && at + 8 <= bytes.length) {
    if (next === 44) offset = u16(bytes, at + 2) >> 3;
    const length = next === 44 ? 8 : ((bytes[at + 1] ?? 0) + 1) * 8;
    next = bytes[at] ?? 59;
    at += length;
    if (offset > 0) break;
  }
  return transport(next, bytes.subarray(at), addresses, offset);
}

function transport(
  number: number,
  bytes: Buffer,
  addresses: { source: string; destination: string },
  fragmentOffset: number,
): Flow {
  const protocol = protocolName(number);
  const flow: Flow = { protocol, ...addresses };
  if (fragmentOffset > 0) return { ...flow, detail: "fragment" };
  if (hasPorts(protocol) && bytes.length >= 4) {
    flow.sourcePort = u16(bytes, 0);
    flow.destinationPort = u16(bytes, 2);
  }
  const detail =
    protocol === "tcp" && bytes.length >= 14
      ? tcpFlags(bytes[13] ?? 0)
      : protocol === "icmp" || protocol === "icmp6"
        ? icmp(bytes, protocol)
        : "";
  return detail === "" ? flow : { ...flow, detail };
}

/** `SYN ACK`. */
export function tcpFlags(flags: number): string {
  return ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"].filter((_, bit) => flags & (1 << bit)).join(" ");
}

const icmpTypes: Record<"icmp" | "icmp6", Record<number, string>> = {
  icmp: { 0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded" },
  icmp6: {
    1: "unreachable",
    2: "packet too big",
    3: "time exceeded",
    128: "echo request",
    129: "echo reply",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
    143: "multicast listener report",
  },
};

function icmp(bytes: Buffer, protocol: "icmp" | "icmp6"): string {
  if (bytes.length < 2) return "";
  const type = bytes[0] ?? 0;
  const name = icmpTypes[protocol][type] ?? `type ${type}`;
  if (name.startsWith("echo") && bytes.length >= 8) return `${name} id ${u16(bytes, 4)} seq ${u16(bytes, 6)}`;
  return name === "unreachable" ? `${name} code ${bytes[1] ?? 0}` : name;
}

function u16(bytes: Buffer, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

function address4(bytes: Buffer, at: number): string {
  return [...bytes.subarray(at, at + 4)].join(".");
}

/** RFC 5952: lower case, no leading zeros, the first longest run of two or more zero groups as `::`. */
export function address6(bytes: Buffer, at: number): string {
  const groups = Array.from({ length: 8 }, (_, index) => u16(bytes, at + 2 * index));
  let best = { start: 0, length: 1 };
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > best.length) best = { start, length };
  }
  const text = (list: number[]): string => list.map((group) => group.toString(16)).join(":");
  if (best.length < 2) return text(groups);
  return `${text(groups.slice(0, best.start))}::${text(groups.slice(best.start + best.length))}`;
}
