// SPDX-License-Identifier: Apache-2.0
/** What all readers of parameter values share. */

/** A value that cannot be had; the message is a clause that quotes what was given and says what would be right. */
export class BadValue extends Error {
  override readonly name = "BadValue";
}

/** Text to bytes and back, for one value of a fixed size. */
export interface Codec {
  /** What it is, with an example: `a bit rate such as 10Mbit`. */
  readonly expects: string;
  readonly size: number;
  /** True where white space around the text belongs to the value. */
  readonly verbatim?: boolean;
  /** Throws BadValue. */
  encode(text: string): Buffer;
  /** The canonical text; plain numbers and booleans where there is no unit. */
  decode(bytes: Buffer): string | number | boolean;
}

/** An integer in the byte order of the machine: Remora runs on x86-64 and arm64, both little-endian. */
export function integerBytes(value: bigint, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  let rest = BigInt.asUintN(size * 8, value);
  for (let index = 0; index < size; index += 1, rest >>= 8n) bytes[index] = Number(rest & 0xffn);
  return bytes;
}

export function integerOf(bytes: Buffer, signed: boolean): bigint {
  const value = bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  return signed ? BigInt.asIntN(bytes.length * 8, value) : value;
}
