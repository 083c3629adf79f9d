// SPDX-License-Identifier: Apache-2.0
/**
 * The bytes of a map's key or value as what they mean, by their BTF type: a tree of what JSON can hold.
 *
 *   int          a number; as text where a JSON number would not be exact (beyond 2^53)
 *   bool         true, false; a byte that is neither is a number
 *   enum         the enumerator's name, or the number where none has it
 *   char array   text up to its first NUL, where it is printable; else numbers
 *   array        a list
 *   struct,      an object of the members; those of a nameless member stand among its parent's
 *   union
 *   float        a number, or its name as text (`NaN`, `Infinity`)
 *   other        pointers and what has no type: hexadecimal text, in the order of the bytes; addresses of 8 bytes a number
 *
 * The machines that Remora runs on are little-endian. Several byte strings are the same value on several CPUs: numbers
 * are added up (modulo nothing: a sum may be larger than its type), and what cannot be added is given where all CPUs
 * that hold anything agree, else null.
 */

import type { BtfType } from "../kernel/port.ts";

export type Decoded = string | number | boolean | null | Decoded[] | { [name: string]: Decoded };

/** A type for bytes of which nothing is known. */
export function untyped(size: number): BtfType {
  return { kind: "other", name: "", size };
}

/** One value. Bytes that are missing count as 0. */
export function decode(type: BtfType, bytes: Buffer): Decoded {
  return decodeSum(type, [bytes]);
}

/** The values of several CPUs as one. */
export function decodeSum(type: BtfType, perCpu: Buffer[]): Decoded {
  // A CPU that never ran holds zeros, which say nothing about names and texts.
  const used = perCpu.filter((bytes) => bytes.some((byte) => byte !== 0));
  return at(type, used.length > 0 ? used : perCpu.slice(0, 1), { bit: 0, bits: type.size * 8 });
}

/** Splits what `lookupMap` gives of a per-CPU map: one value per possible CPU, each padded to 8 bytes. */
export function splitCpus(value: Buffer, size: number): Buffer[] {
  const step = Math.ceil(size / 8) * 8;
  return Array.from({ length: Math.floor(value.length / step) }, (_, cpu) =>
    value.subarray(cpu * step, cpu * step + size),
  );
}

interface Place {
  bit: number;
  bits: number;
}

function at(type: BtfType, values: Buffer[], place: Place): Decoded {
  switch (type.kind) {
    case "int":
      if (type.encoding === "bool") return agreed(values, (bytes) => truth(unsigned(bytes, place)));
      return exact(values.reduce((sum, bytes) => sum + integer(bytes, place, type.signed), 0n));
    case "enum":
      return agreed(values, (bytes) => {
        const value = integer(bytes, place, type.signed);
        return type.values.find((each) => each.value === value)?.name ?? exact(value);
      });
    case "float":
      return agreed(values, (bytes) => floating(slice(bytes, place, type.size), type.size));
    case "array":
      return array(type, values, place);
    case "struct":
    case "union":
      return members(type, values, place);
    case "other":
      return agreed(values, (bytes) =>
        type.size === 8 && type.name === ""
          ? exact(unsigned(bytes, place))
          : slice(bytes, place, type.size).toString("hex"),
      );
  }
}

function array(type: Extract<BtfType, { kind: "array" }>, values: Buffer[], place: Place): Decoded {
  const { element, length } = type;
  if (element.kind === "int" && element.encoding === "char") {
    const texts = agreed(values, (bytes) => text(slice(bytes, place, length)));
    if (texts !== undefined) return texts;
  }
  return Array.from({ length }, (_, index) =>
    at(element, values, { bit: place.bit + index * element.size * 8, bits: element.size * 8 }),
  );
}

function members(type: Extract<BtfType, { kind: "struct" | "union" }>, values: Buffer[], place: Place): Decoded {
  const out: Record<string, Decoded> = {};
  for (const member of type.members) {
    const value = at(member.type, values, { bit: place.bit + member.bitOffset, bits: member.bitSize });
    const nameless = member.name === "";
    if (!nameless) out[member.name] = value;
    else if (typeof value === "object" && value !== null && !Array.isArray(value)) Object.assign(out, value);
  }
  return out;
}

/** What every CPU says, null where they differ. Undefined is a value like others. */
function agreed<T extends Decoded | undefined>(values: Buffer[], read: (bytes: Buffer) => T): T | null {
  const [first, ...others] = values.map(read);
  return others.every((other) => other === first) ? (first as T) : null;
}

function unsigned(bytes: Buffer, { bit, bits }: Place): bigint {
  let number = 0n;
  const last = (bit + bits - 1) >> 3;
  for (let index = last; index >= bit >> 3; index--) number = (number << 8n) | BigInt(bytes[index] ?? 0);
  return BigInt.asUintN(bits, number >> BigInt(bit & 7));
}

function integer(bytes: Buffer, place: Place, signed: boolean): bigint {
  const number = unsigned(bytes, place);
  return signed ? BigInt.asIntN(place.bits, number) : number;
}

function exact(number: bigint): number | string {
  const plain = Number(number);
  return Number.isSafeInteger(plain) ? plain : String(number);
}

function truth(number: bigint): boolean | number | string {
  return number === 0n ? false : number === 1n ? true : exact(number);
}

function floating(bytes: Buffer, size: number): number | string {
  const number = size === 8 ? bytes.readDoubleLE() : size === 4 ? bytes.readFloatLE() : Number.NaN;
  return Number.isFinite(number) ? number : String(number);
}

/** The bytes of a place, as many as its type has, also where the value ends before. */
function slice(bytes: Buffer, { bit }: Place, size: number): Buffer {
  const start = bit >> 3;
  const out = Buffer.alloc(size);
  bytes.copy(out, 0, start, start + size);
  return out;
}

const printable = /^[^\p{Cc}\p{Cf}\ufffd]*$/u;

function text(bytes: Buffer): string | undefined {
  const end = bytes.indexOf(0);
  const read = bytes.toString("utf8", 0, end < 0 ? bytes.length : end);
  return printable.test(read) ? read : undefined;
}
