// SPDX-License-Identifier: Apache-2.0
/** Which codec a parameter has: from its C type (BTF) and its tags. */

import type { BtfType } from "../kernel/port.ts";
import { address, ipv4, ipv6, mac, prefix } from "./address.ts";
import * as notation from "./notation.ts";
import { dscpRule, rule } from "./rule.ts";
import { BadTag, type ParameterTags } from "./tags.ts";
import { BadValue, type Codec, integerBytes, integerOf } from "./value.ts";
import { quote } from "./words.ts";

/** Codec of one value, and the bounds its tags set, as canonical text. */
interface ValueCodec {
  element: Codec;
  min: string | null;
  max: string | null;
  /** The names that are accepted, where only names (of choices or enumerators) are. */
  choices: string[];
}

/** One value, or a list of at most `length` values. */
export interface ParameterCodec extends ValueCodec {
  length: number | undefined;
}

type NumberType = Extract<BtfType, { kind: "int" | "enum" }>;

const isUnsigned = (type: BtfType): type is NumberType => type.kind === "int" && !type.signed;
const isBytes = (type: BtfType, length: number) =>
  type.kind === "array" && type.length === length && type.element.kind === "int" && type.element.size === 1;
const isSixteenBytes = (type: BtfType) =>
  isBytes(type, 16) || ((type.kind === "struct" || type.kind === "union") && type.size === 16);
const isStruct = (type: BtfType, name: string, size: number) =>
  type.kind === "struct" && type.name === name && type.size === size;

/** Compilers write plain `char` without an encoding of its own, so its name counts. */
function isString(type: BtfType): boolean {
  if (type.kind !== "array" || type.element.kind !== "int" || type.element.size !== 1) return false;
  return type.element.encoding === "char" || type.element.name === "char";
}

/** How values of a unit are written, and the types that may have it. */
interface Unit<As> {
  as: As;
  type: string;
  fits(type: BtfType): boolean;
}

/** The units whose values are numbers. */
const numberUnits = new Map<string, Unit<notation.Notation>>(
  Object.entries({
    bitrate: { as: notation.bitrate, type: "an unsigned integer", fits: isUnsigned },
    size: { as: notation.size, type: "an unsigned integer", fits: isUnsigned },
    duration: { as: notation.duration, type: "an unsigned integer", fits: isUnsigned },
    percent: {
      as: notation.percent,
      type: "an unsigned integer of 4 or 8 bytes",
      fits: (type) => isUnsigned(type) && type.size >= 4,
    },
    dscp: { as: notation.dscp, type: "an unsigned integer", fits: isUnsigned },
  }),
);

/** The units whose values are bytes. */
const byteUnits = new Map<string, Unit<Codec>>(
  Object.entries({
    ipv4: {
      as: ipv4,
      type: "__be32 or __u8[4]",
      fits: (type) => (isUnsigned(type) && type.size === 4) || isBytes(type, 4),
    },
    ipv6: { as: ipv6, type: "16 bytes", fits: isSixteenBytes },
    address: { as: address, type: "16 bytes", fits: isSixteenBytes },
    mac: { as: mac, type: "__u8[6]", fits: (type) => isBytes(type, 6) },
    prefix: { as: prefix, type: "struct remora_prefix", fits: (type) => isStruct(type, "remora_prefix", prefix.size) },
    rule: { as: rule, type: "struct remora_rule", fits: (type) => isStruct(type, "remora_rule", rule.size) },
    dscprule: {
      as: dscpRule,
      type: "struct remora_rule",
      fits: (type) => isStruct(type, "remora_rule", dscpRule.size),
    },
  }),
);

const unitNames = [...numberUnits.keys(), ...byteUnits.keys()];

/**
 * Undefined where the type is one that text cannot be turned into (a struct without a unit, a float, ...).
 * Throws BadTag where the tags do not fit the type.
 */
export function codecFor(type: BtfType, tags: ParameterTags): ParameterCodec | undefined {
  const single = valueCodec(type, tags);
  if (single) return { ...single, length: undefined };
  const element = type.kind === "array" ? valueCodec(type.element, tags) : undefined;
  if (element && type.kind === "array") return { ...element, length: type.length };
  if (tags.unit !== undefined) {
    const wanted = numberUnits.get(tags.unit) ?? byteUnits.get(tags.unit);
    throw new BadTag(
      wanted
        ? `its unit ${tags.unit} is for ${wanted.type}, and its type is ${typeText(type)}`
        : `its unit ${quote(tags.unit)} is unknown (known: ${unitNames.join(", ")})`,
    );
  }
  if (tags.choices.length > 0 || tags.min !== undefined || tags.max !== undefined) {
    throw new BadTag(`its type ${typeText(type)} cannot have min, max or choice`);
  }
  return undefined;
}

function valueCodec(type: BtfType, tags: ParameterTags): ValueCodec | undefined {
  const { unit } = tags;
  if (unit === undefined) {
    if (type.kind === "int") {
      return numberCodec(type, type.encoding === "bool" ? notation.boolean : notation.integer, tags);
    }
    if (type.kind === "enum") return numberCodec(type, notation.enumerators(type), tags);
    return isString(type) ? unbounded(stringCodec(type.size), tags) : undefined;
  }
  const number = numberUnits.get(unit);
  if (number?.fits(type)) return numberCodec(type as NumberType, number.as, tags);
  const bytes = byteUnits.get(unit);
  return bytes?.fits(type) ? unbounded(bytes.as, tags) : undefined;
}

function unbounded(element: Codec, tags: ParameterTags): ValueCodec {
  const wrong =
    tags.choices.length > 0 ? "choice" : tags.min !== undefined ? "min" : tags.max !== undefined ? "max" : "";
  if (wrong !== "") throw new BadTag(`its ${wrong} is for numbers, and it is ${element.expects}`);
  return { element, min: null, max: null, choices: [] };
}

function limits(type: NumberType): { least: bigint; most: bigint } {
  const bits = BigInt(type.size * 8);
  if (type.kind === "int" && type.encoding === "bool") return { least: 0n, most: 1n };
  return type.signed
    ? { least: -(1n << (bits - 1n)), most: (1n << (bits - 1n)) - 1n }
    : { least: 0n, most: (1n << bits) - 1n };
}

function numberCodec(type: NumberType, natural: notation.Notation, tags: ParameterTags): ValueCodec {
  const own = limits(type);
  const inTag = (name: string, text: string, as: notation.Notation): bigint => {
    try {
      const value = as.parse(text);
      if (value >= own.least && value <= own.most) return value;
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      throw new BadTag(`its ${name}: ${error.message}`);
    }
    throw new BadTag(`its ${name}: ${quote(text)} does not fit its type ${typeText(type)}`);
  };

  const choices = tags.choices.map(({ name, value }) => ({
    name,
    value: inTag(`choice ${name}`, value, notation.integer),
  }));
  const as = choices.length > 0 ? notation.named(choices, false) : natural;
  const least = tags.min === undefined ? own.least : inTag("min", tags.min, as);
  const most = tags.max === undefined ? own.most : inTag("max", tags.max, as);
  if (least > most) throw new BadTag(`its min ${tags.min} is above its max ${tags.max}`);
  const range =
    tags.max === undefined && tags.min !== undefined
      ? `${as.render(least)} or more`
      : `${as.render(least)} to ${as.render(most)}`;

  const element: Codec = {
    expects: as.expects,
    size: type.size,
    encode(text) {
      const value = as.parse(text);
      if (value < least || value > most) throw new BadValue(`${quote(text)} is out of range, ${range} is possible`);
      return integerBytes(value, type.size);
    },
    decode: (bytes) => as.render(integerOf(bytes, type.signed)),
  };
  const names = choices.length > 0 ? choices : type.kind === "enum" ? type.values : [];
  return {
    element,
    min: tags.min === undefined ? null : String(as.render(least)),
    max: tags.max === undefined ? null : String(as.render(most)),
    choices: names.map(({ name }) => name),
  };
}

function stringCodec(size: number): Codec {
  return {
    expects: `text of at most ${size - 1} bytes`,
    size,
    verbatim: true,
    encode(text) {
      const length = Buffer.byteLength(text);
      if (length >= size)
        throw new BadValue(`${quote(text)} is ${length} bytes long, at most ${size - 1} are possible`);
      if (text.includes("\0")) throw new BadValue(`${quote(text)} holds a NUL character, which would end it`);
      const bytes = Buffer.alloc(size);
      bytes.write(text);
      return bytes;
    },
    decode(bytes) {
      const end = bytes.indexOf(0);
      return bytes.toString("utf8", 0, end < 0 ? bytes.length : end);
    },
  };
}

/** A type as C programmers of the kernel write it: `u32`, `s64`, `bool`, `char[16]`, `enum action`, `struct x[8]`. */
export function typeText(type: BtfType): string {
  switch (type.kind) {
    case "int":
      if (type.encoding === "bool") return "bool";
      return type.name === "char" ? "char" : `${type.signed ? "s" : "u"}${type.size * 8}`;
    case "enum":
      return type.name === "" ? "enum" : `enum ${type.name}`;
    case "array":
      return `${typeText(type.element)}[${type.length}]`;
    case "struct":
    case "union":
      return `${type.kind} ${type.name}`.trimEnd();
    case "float":
    case "other":
      return type.name === "" ? `${type.size} bytes` : type.name;
  }
}
