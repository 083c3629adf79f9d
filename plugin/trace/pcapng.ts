// SPDX-License-Identifier: Apache-2.0
/**
 * Packets as a pcapng file (draft-ietf-opsawg-pcapng): a Section Header Block, an Interface Description Block for each
 * interface, and an Enhanced Packet Block for each packet, with a comment and the direction. Pure: makes bytes.
 *
 * Little-endian, which the byte-order magic tells; times in nanoseconds, which `if_tsresol` tells.
 */

/** https://www.tcpdump.org/linktypes.html */
export const linkType = { ethernet: 1, raw: 101 } as const;

const block = { section: 0x0a0d0d0a, interface: 1, packet: 6 } as const;
const option = {
  end: 0,
  comment: 1,
  userApplication: 4,
  interfaceName: 2,
  interfaceResolution: 9,
  packetFlags: 2,
} as const;

/** The head of a file. */
export function sectionHeader(application: string): Buffer {
  const fixed = Buffer.alloc(16);
  fixed.writeUInt32LE(0x1a2b3c4d, 0);
  fixed.writeUInt16LE(1, 4);
  fixed.writeUInt16LE(0, 6);
  fixed.writeBigInt64LE(-1n, 8); // the section's length: unknown
  return frame(block.section, [fixed, text(option.userApplication, application), end]);
}

/** Interfaces are numbered from 0, in the order in which they are described. */
export function interfaceDescription(name: string, link: number, snapLength: number): Buffer {
  const fixed = Buffer.alloc(8);
  fixed.writeUInt16LE(link, 0);
  fixed.writeUInt32LE(snapLength, 4);
  return frame(block.interface, [
    fixed,
    text(option.interfaceName, name),
    field(option.interfaceResolution, Buffer.from([9])),
    end,
  ]);
}

export interface CapturedPacket {
  interface: number;
  /** Nanoseconds since the epoch. */
  time: bigint;
  bytes: Buffer;
  /** How long the packet was on the wire. */
  length: number;
  direction: "ingress" | "egress";
  comment: string;
}

export function enhancedPacket(packet: CapturedPacket): Buffer {
  const fixed = Buffer.alloc(20);
  fixed.writeUInt32LE(packet.interface, 0);
  fixed.writeUInt32LE(Number(packet.time >> 32n), 4);
  fixed.writeUInt32LE(Number(packet.time & 0xffffffffn), 8);
  fixed.writeUInt32LE(packet.bytes.length, 12);
  fixed.writeUInt32LE(Math.max(packet.length, packet.bytes.length), 16);
  const flags = Buffer.alloc(4);
  flags.writeUInt32LE(packet.direction === "ingress" ? 1 : 2);
  return frame(block.packet, [
    fixed,
    padded(packet.bytes),
    text(option.comment, packet.comment),
    field(option.packetFlags, flags),
    end,
  ]);
}

const end = Buffer.alloc(4);

function frame(type: number, parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const out = Buffer.alloc(12 + body.length);
  out.writeUInt32LE(type, 0);
  out.writeUInt32LE(out.length, 4);
  body.copy(out, 8);
  out.writeUInt32LE(out.length, out.length - 4);
  return out;
}

function field(code: number, value: Buffer): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt16LE(code, 0);
  head.writeUInt16LE(value.length, 2);
  return Buffer.concat([head, padded(value)]);
}

/** An option's length has 16 bits; what is longer is cut. */
function text(code: number, value: string): Buffer {
  return field(code, Buffer.from(value, "utf8").subarray(0, 0xffff));
}

function padded(value: Buffer): Buffer {
  return Buffer.concat([value, Buffer.alloc((4 - (value.length % 4)) % 4)]);
}
