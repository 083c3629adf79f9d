// SPDX-License-Identifier: Apache-2.0
/**
 * Packets for tests, from the inside out: `ethernet(ipv4({ source: "10.0.0.1" }, tcp({ destination: 80 })))`.
 * Each layer knows what it is, so the one around it fills in its own type field. IPv4 headers have their checksum;
 * those of the transport stay 0: the programs do not look at them, and these packets are never received by a stack.
 */

import { parseIpv4, parseIpv6 } from "../plugin/catalog/address.ts";

/** What an Ethernet header or a VLAN tag can carry. */
export interface Network {
  ethertype: number;
  bytes: Buffer;
}
/** What an IP header or an IPv6 extension header can carry. */
export interface Transport {
  protocol: number;
  bytes: Buffer;
}

const u8 = (...values: number[]) => Buffer.from(values);
const u16 = (value: number) => u8(value >> 8, value & 255);
const u32 = (value: number) => Buffer.concat([u16(value >>> 16), u16(value & 0xffff)]);

// ---- link layer ------------------------------------------------------------------------------------------------

/** A frame. `to` is the destination's MAC; one that begins with 4 or 6 looks like an IP header. */
export function ethernet(payload: Network, to = "02:00:00:00:00:02", from = "02:00:00:00:00:01"): Buffer {
  return Buffer.concat([mac(to), mac(from), u16(payload.ethertype), payload.bytes]);
}

/** An 802.1Q tag, or with `tpid` 0x88a8 the outer one of two (802.1ad). */
export function vlan(id: number, payload: Network, tpid = 0x8100): Network {
  return { ethertype: tpid, bytes: Buffer.concat([u16(id), u16(payload.ethertype), payload.bytes]) };
}

export interface ArpFields {
  /** 1 is a request, 2 a reply. */
  operation?: number;
  senderMac?: string;
  sender?: string;
}

export function arp({ operation = 1, senderMac = "00:00:00:00:00:00", sender = "0.0.0.0" }: ArpFields = {}): Network {
  const head = Buffer.from("000108000604", "hex");
  const bytes = Buffer.concat([head, u16(operation), mac(senderMac), address4(sender), Buffer.alloc(10)]);
  return { ethertype: 0x0806, bytes };
}

/** What is neither IP nor ARP, LLDP unless said otherwise. */
export function other(ethertype = 0x88cc, bytes = Buffer.alloc(46)): Network {
  return { ethertype, bytes };
}

function mac(text: string): Buffer {
  return Buffer.from(text.replaceAll(":", ""), "hex");
}

// ---- network layer ---------------------------------------------------------------------------------------------

/** `offset` in units of 8 bytes, as in the header. */
export interface Fragment {
  offset: number;
  more: boolean;
}

export interface Ipv4Fields {
  source?: string;
  destination?: string;
  /** DSCP and ECN; of IPv6 the traffic class. */
  tos?: number;
  /** Bytes, a multiple of 4. */
  options?: Buffer;
  fragment?: Fragment;
  version?: number;
  /** Header length in words, where it shall not be the true one. */
  ihl?: number;
}

export function ipv4(fields: Ipv4Fields, payload: Transport): Network {
  const { source = "10.0.0.1", destination = "10.0.0.2", options = Buffer.alloc(0), fragment } = fields;
  const words = fields.ihl ?? 5 + options.length / 4;
  const place = fragment ? (fragment.more ? 0x2000 : 0) | fragment.offset : 0x4000;
  const bytes = Buffer.concat([
    u8(((fields.version ?? 4) << 4) | words, fields.tos ?? 0),
    u16(20 + options.length + payload.bytes.length),
    u16(0),
    u16(place),
    u8(64, payload.protocol, 0, 0),
    address4(source),
    address4(destination),
    options,
    payload.bytes,
  ]);
  bytes.writeUInt16BE(internetChecksum(bytes.subarray(0, 20 + options.length)), 10);
  return { ethertype: 0x0800, bytes };
}

/** The complement of the sum in one's complement (RFC 1071), of an even number of bytes. */
export function internetChecksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

export interface Ipv6Fields {
  source?: string;
  destination?: string;
  tos?: number;
  /** 20 bits. */
  flowLabel?: number;
  hopLimit?: number;
  version?: number;
}

export function ipv6(fields: Ipv6Fields, payload: Transport): Network {
  const { source = "2001:db8::1", destination = "2001:db8::2", hopLimit = 64, version = 6 } = fields;
  const { tos = 0, flowLabel = 0 } = fields;
  const bytes = Buffer.concat([
    u16((version << 12) | (tos << 4) | (flowLabel >>> 16)),
    u16(flowLabel & 0xffff),
    u16(payload.bytes.length),
    u8(payload.protocol, hopLimit),
    address6(source),
    address6(destination),
    payload.bytes,
  ]);
  return { ethertype: 0x86dd, bytes };
}

const extensions = { hopByHop: 0, routing: 43, destination: 60 } as const;

/** An extension header of `length` bytes, a multiple of 8. */
export function extension(kind: keyof typeof extensions, payload: Transport, length = 8): Transport {
  const rest = Buffer.alloc(length - 2);
  return {
    protocol: extensions[kind],
    bytes: Buffer.concat([u8(payload.protocol, length / 8 - 1), rest, payload.bytes]),
  };
}

/** An authentication header of 24 bytes; its length field counts words, less two. */
export function authentication(payload: Transport): Transport {
  return { protocol: 51, bytes: Buffer.concat([u8(payload.protocol, 4), Buffer.alloc(22), payload.bytes]) };
}

/** An IPv6 fragment header. What is carried by a later fragment is not read, it only names the protocol. */
export function fragment6(fragment: Fragment, payload: Transport): Transport {
  const place = (fragment.offset << 3) | (fragment.more ? 1 : 0);
  return {
    protocol: 44,
    bytes: Buffer.concat([u8(payload.protocol, 0), u16(place), Buffer.alloc(4), payload.bytes]),
  };
}

function address4(text: string): Buffer {
  return parsed(text, parseIpv4(text));
}
function address6(text: string): Buffer {
  return parsed(text, parseIpv6(text));
}
function parsed(text: string, bytes: Buffer | undefined): Buffer {
  if (!bytes) throw new Error(`${text} is no address`);
  return bytes;
}

// ---- transport layer -------------------------------------------------------------------------------------------

export interface Ports {
  source?: number;
  destination?: number;
}

export interface TcpFields extends Ports {
  sequence?: number;
  acknowledgement?: number;
  /** Letters of "FSRPAUEC"; ACK alone unless said otherwise. */
  flags?: string;
  window?: number;
  /** Bytes, a multiple of 4. */
  options?: Buffer;
  /** Header length in words, where it shall not be the true one. */
  words?: number;
}

/** A TCP header of 20 bytes (unless it has options) and, unless given, no payload. */
export function tcp(fields: TcpFields = {}, payload: Buffer = Buffer.alloc(0)): Transport {
  const { source = 40000, destination = 80, sequence = 0, acknowledgement = 0, window = 255 } = fields;
  const { flags = "A", options = Buffer.alloc(0), words = 5 + options.length / 4 } = fields;
  const bits = [...flags].reduce((sum, letter) => sum | (1 << "FSRPAUEC".indexOf(letter)), 0);
  const header = [u16(source), u16(destination), u32(sequence), u32(acknowledgement), u8(words << 4, bits)];
  return { protocol: 6, bytes: Buffer.concat([...header, u16(window), Buffer.alloc(4), options, payload]) };
}

export function udp({ source = 40000, destination = 53 }: Ports = {}, payload: Buffer = Buffer.alloc(4)): Transport {
  const bytes = Buffer.concat([u16(source), u16(destination), u16(8 + payload.length), u16(0), payload]);
  return { protocol: 17, bytes };
}

export function sctp({ source = 40000, destination = 3868 }: Ports = {}): Transport {
  return { protocol: 132, bytes: Buffer.concat([u16(source), u16(destination), Buffer.alloc(8)]) };
}

export function icmp(type = 8): Transport {
  return { protocol: 1, bytes: Buffer.concat([u8(type, 0), Buffer.alloc(6)]) };
}

export const discovery = { routerSolicitation: 133, routerAdvertisement: 134, solicitation: 135, advertisement: 136 };

/** ICMPv6, an echo request unless said otherwise. */
export function icmpv6(type = 128, code = 0): Transport {
  return { protocol: 58, bytes: Buffer.concat([u8(type, code), Buffer.alloc(22)]) };
}

/** Any other transport: GRE, ESP, ... */
export function protocol(number: number, bytes = Buffer.alloc(8)): Transport {
  return { protocol: number, bytes };
}
