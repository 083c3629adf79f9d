// SPDX-License-Identifier: Apache-2.0
/**
 * Addresses and prefixes as text and as `bpf/include/remora/` lays them out: network byte order, 16 bytes for either
 * family, IPv4 as v4-mapped `::ffff:a.b.c.d`.
 */

import type { BtfType } from "../kernel/port.ts";
import { BadValue, type Codec } from "./value.ts";
import { quote } from "./words.ts";

export type Family = 4 | 6;
const mapped = Buffer.from("00000000000000000000ffff", "hex");

/** Four bytes, or undefined where the text is no IPv4 address. Leading zeros are refused: some read them as octal. */
export function parseIpv4(text: string): Buffer | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  if (!parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255)) return undefined;
  return Buffer.from(parts.map(Number));
}

/** Sixteen bytes, or undefined where the text is no IPv6 address (RFC 4291, section 2.2; no zone). */
export function parseIpv6(text: string): Buffer | undefined {
  if (text.length > 45) return undefined;
  const halves = text.split("::");
  const [left, right] = halves.map((half) => (half === "" ? [] : half.split(":")));
  if (left === undefined || halves.length > 2) return undefined;
  const head = groupBytes(left, right === undefined);
  const tail = right === undefined ? [] : groupBytes(right, true);
  if (head === undefined || tail === undefined) return undefined;
  const length = head.length + tail.length;
  if (right === undefined ? length !== 16 : length > 14) return undefined;
  return Buffer.from([...head, ...Array<number>(16 - length).fill(0), ...tail]);
}

/** The bytes of colon-separated groups; the very last of the address may be dotted. */
function groupBytes(groups: string[], dottedMayEnd: boolean): number[] | undefined {
  const bytes: number[] = [];
  for (const [index, group] of groups.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(group)) {
      const value = Number.parseInt(group, 16);
      bytes.push(value >> 8, value & 0xff);
      continue;
    }
    const dotted = dottedMayEnd && index === groups.length - 1 ? parseIpv4(group) : undefined;
    if (dotted === undefined) return undefined;
    bytes.push(...dotted);
  }
  return bytes;
}

export function formatIpv4(bytes: Buffer): string {
  return bytes.join(".");
}

/** RFC 5952: lower case, the longest run of zero groups (the first of equals, two at least) as `::`. */
export function formatIpv6(bytes: Buffer): string {
  if (isMapped(bytes)) return `::ffff:${formatIpv4(bytes.subarray(12))}`;
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2));
  let start = 0;
  let longest = 0;
  for (let from = 0; from < 8; from += 1) {
    const to = groups.findIndex((group, index) => index >= from && group !== 0);
    const length = (to < 0 ? 8 : to) - from;
    if (length > longest) [start, longest] = [from, length];
  }
  const hex = (part: number[]) => part.map((group) => group.toString(16)).join(":");
  if (longest < 2) return hex(groups);
  return `${hex(groups.slice(0, start))}::${hex(groups.slice(start + longest))}`;
}

function isMapped(bytes: Buffer): boolean {
  return bytes.subarray(0, 12).equals(mapped);
}

const example = " such as 10.1.2.3 or 2001:db8::1";

/** Either family in 16 bytes. Throws BadValue, with `hint` behind what it is not. */
function parseAddress(text: string, hint = ""): { bytes: Buffer; family: Family } {
  const four = parseIpv4(text);
  if (four) return { bytes: Buffer.concat([mapped, four]), family: 4 };
  const six = parseIpv6(text);
  if (six === undefined) throw new BadValue(`${quote(text)} is not an IP address${hint}`);
  if (isMapped(six)) throw new BadValue(`${quote(text)} is an IPv4 address, write ${formatIpv4(six.subarray(12))}`);
  return { bytes: six, family: 6 };
}

function formatAddress(bytes: Buffer): string {
  return isMapped(bytes) ? formatIpv4(bytes.subarray(12)) : formatIpv6(bytes);
}

export const ipv4: Codec = {
  expects: "an IPv4 address such as 10.1.2.3",
  size: 4,
  encode(text) {
    const bytes = parseIpv4(text);
    if (bytes === undefined) throw new BadValue(`${quote(text)} is not ${this.expects}`);
    return bytes;
  },
  decode: formatIpv4,
};

export const ipv6: Codec = {
  expects: "an IPv6 address such as 2001:db8::1",
  size: 16,
  encode(text) {
    const bytes = parseIpv6(text);
    if (bytes === undefined) throw new BadValue(`${quote(text)} is not ${this.expects}`);
    return bytes;
  },
  decode: formatIpv6,
};

export const address: Codec = {
  expects: `an IP address${example}`,
  size: 16,
  encode: (text) => parseAddress(text, example).bytes,
  decode: formatAddress,
};

export const mac: Codec = {
  expects: "a MAC address such as 02:00:00:00:00:01",
  size: 6,
  encode(text) {
    if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) throw new BadValue(`${quote(text)} is not ${this.expects}`);
    return Buffer.from(text.replaceAll(":", ""), "hex");
  },
  decode: (bytes) => (bytes.some((byte) => byte !== 0) ? (bytes.toString("hex").match(/../g)?.join(":") ?? "") : ""),
};

const familyAt = 17;
const lengthAt = 16;

/** `struct remora_prefix`: address[16], length, family (0 any, 4, 6), reserved[6]. */
export const prefix: Codec = {
  expects: "a prefix such as 10.0.0.0/8, 2001:db8::/32 or any",
  size: 24,
  encode(text) {
    const bytes = Buffer.alloc(24);
    if (text.toLowerCase() === "any") return bytes;
    const [addressText = "", lengthText, ...more] = text.split("/");
    const { bytes: host, family } = parseAddress(addressText);
    const most = family === 4 ? 32 : 128;
    const length = lengthText ?? String(most);
    if (more.length > 0 || !/^(0|[1-9]\d{0,2})$/.test(length) || Number(length) > most) {
      throw new BadValue(`${quote(text)} is not ${this.expects}: an IPv${family} prefix is 0 to ${most} bits long`);
    }
    const bits = Number(length) + (family === 4 ? 96 : 0);
    const network = masked(host, bits);
    bytes.set(network);
    bytes[lengthAt] = bits;
    bytes[familyAt] = family;
    if (!network.equals(host)) {
      throw new BadValue(`${quote(text)} has bits set past /${length}; the network is ${formatPrefix(bytes)}`);
    }
    return bytes;
  },
  decode: formatPrefix,
};

/** Of `struct remora_prefix_key`: the bits of family and reserved, which its length counts as well. */
const familyBits = 32;

/** `struct remora_prefix_key`, a key of an LPM trie: length (32 bits, as the machine has them), family, reserved[3], address[16]. */
export const prefixKey: Codec = {
  expects: "a prefix such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32",
  size: 24,
  encode(text) {
    if (text.toLowerCase() === "any")
      throw new BadValue(`${quote(text)} is more than one prefix: 0.0.0.0/0 is all of IPv4, ::/0 all of IPv6`);
    const bytes = prefix.encode(text);
    const key = Buffer.alloc(24);
    key.writeUInt32LE(familyBits + (bytes[lengthAt] ?? 0));
    key[4] = familyOf(bytes);
    key.set(bytes.subarray(0, 16), 8);
    return key;
  },
  decode(key) {
    const bytes = Buffer.alloc(24);
    bytes.set(key.subarray(8, 24));
    bytes[lengthAt] = key.readUInt32LE() - familyBits;
    bytes[familyAt] = key[4] ?? 0;
    return formatPrefix(bytes);
  },
};

/** Whether a map has such keys. */
export function isPrefixKey(type: BtfType): boolean {
  return type.kind === "struct" && type.name === "remora_prefix_key" && type.size === prefixKey.size;
}

export function familyOf(prefixBytes: Buffer): number {
  return prefixBytes[familyAt] ?? 0;
}

function masked(bytes: Buffer, bits: number): Buffer {
  return Buffer.from(bytes.map((byte, index) => byte & (0xff00 >> Math.min(8, Math.max(0, bits - index * 8)))));
}

/** A whole address is written without its length. */
function formatPrefix(bytes: Buffer): string {
  const family = familyOf(bytes);
  if (family === 0) return "any";
  const host = bytes.subarray(0, 16);
  const length = (bytes[lengthAt] ?? 0) - (family === 4 ? 96 : 0);
  const text = family === 4 ? formatIpv4(host.subarray(12)) : formatIpv6(host);
  return length === (family === 4 ? 32 : 128) ? text : `${text}/${length}`;
}
