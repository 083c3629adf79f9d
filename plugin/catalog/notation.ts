// SPDX-License-Identifier: Apache-2.0
/**
 * How people write numbers of a kind: `10Mbit`, `64KiB`, `20ms`, `0.5%`, `AF41`, `0x1f`, `true`. Exact: text to bigint
 * and back, never through a floating-point number. What fits into the C type is the question of `scalar.ts`.
 */

import type { BtfType } from "../kernel/port.ts";
import { BadValue } from "./value.ts";
import { didYouMean, listed, quote } from "./words.ts";

export interface Notation {
  /** With an example: `a bit rate such as 10Mbit`. */
  expects: string;
  /** Throws BadValue. */
  parse(text: string): bigint;
  render(value: bigint): string | number | boolean;
}

/** Longer than any number that fits into 64 bits is written, short enough to be counted exactly at once. */
const longestNumber = 60;

function badNotation(text: string, expects: string, why = ""): BadValue {
  return new BadValue(`${quote(text)} is not ${expects}${why}`);
}

/** Above 2^53 a JSON number would no longer be the value. */
function plain(value: bigint): number | string {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value.toString();
}

export const integer: Notation = {
  expects: "a whole number such as 10 or 0x1f",
  parse(text) {
    const [, sign, digits] = /^([+-]?)(\d+|0x[0-9a-f]+)$/i.exec(text.length <= longestNumber ? text : "") ?? [];
    if (digits === undefined) throw badNotation(text, this.expects);
    return sign === "-" ? -BigInt(digits) : BigInt(digits);
  },
  render: plain,
};

const truths = ["true", "yes", "on", "1"];
const falsehoods = ["false", "no", "off", "0"];

export const boolean: Notation = {
  expects: "true or false",
  parse(text) {
    const word = text.toLowerCase();
    if (truths.includes(word)) return 1n;
    if (falsehoods.includes(word)) return 0n;
    throw badNotation(text, this.expects);
  },
  render: (value) => value !== 0n,
};

/** A fixed set of names, as an enum's enumerators or `choice` tags give it. */
export function named(values: readonly { name: string; value: bigint }[], numbersToo: boolean): Notation {
  const names = values.map(({ name }) => name);
  return {
    expects: names.length === 1 ? `${names[0]}` : `one of ${listed(names)}`,
    parse(text) {
      const word = text.toLowerCase();
      const exact = values.find(({ name }) => name === text) ?? values.find(({ name }) => name.toLowerCase() === word);
      if (exact) return exact.value;
      const number = numbersToo && /^[+-]?(\d+|0x[0-9a-f]+)$/i.test(text) ? integer.parse(text) : undefined;
      const byNumber = values.find(({ value }) => value === number);
      if (byNumber) return byNumber.value;
      throw badNotation(text, this.expects, didYouMean(text, names));
    },
    render: (value) => values.find((candidate) => candidate.value === value)?.name ?? plain(value),
  };
}

export function enumerators(type: Extract<BtfType, { kind: "enum" }>): Notation {
  return named(type.values, true);
}

/** A suffix and what it multiplies by. */
type Scale = readonly (readonly [suffix: string, factor: bigint])[];

/** Splits `1.5Gbit` into an exact fraction and its suffix. Undefined where the text has another form. */
function parseDecimal(text: string): { digits: bigint; divisor: bigint; suffix: string } | undefined {
  if (text.length > longestNumber) return undefined;
  const [, whole, fraction = "", suffix] = /^(\d+)(?:\.(\d+))?\s*(\S*)$/.exec(text) ?? [];
  if (whole === undefined || suffix === undefined) return undefined;
  return { digits: BigInt(whole + fraction), divisor: 10n ** BigInt(fraction.length), suffix };
}

function exactly(text: string, digits: bigint, factor: bigint, divisor: bigint, smallest: string): bigint {
  if ((digits * factor) % divisor !== 0n) throw new BadValue(`${quote(text)} is no whole number of ${smallest}`);
  return (digits * factor) / divisor;
}

/** The largest suffix of which the value is a number with at most three decimals; scales are sorted downwards. */
function renderScaled(value: bigint, scale: Scale): string {
  for (const [suffix, factor] of scale) {
    if (value < factor || (value * 1000n) % factor !== 0n) continue;
    const thousandths = (value * 1000n) / factor;
    const fraction = (thousandths % 1000n).toString().padStart(3, "0").replace(/0+$/, "");
    return `${thousandths / 1000n}${fraction === "" ? "" : `.${fraction}`}${suffix}`;
  }
  return `${value}${scale.at(-1)?.[0] ?? ""}`;
}

const bitScale: Scale = [
  ["Tbit", 10n ** 12n],
  ["Gbit", 10n ** 9n],
  ["Mbit", 10n ** 6n],
  ["kbit", 10n ** 3n],
  ["bit", 1n],
];

/** Bits per second. The suffix's case does not matter: nobody means millibits. */
export const bitrate: Notation = {
  expects: "a bit rate such as 10Mbit, 1.5Gbit or 1200 (bits per second)",
  parse(text) {
    const decimal = parseDecimal(text);
    const suffix = decimal?.suffix.toLowerCase() || "bit";
    const factor = bitScale.find(([name]) => name.toLowerCase() === suffix)?.[1];
    if (decimal === undefined || factor === undefined) throw badNotation(text, this.expects);
    return exactly(text, decimal.digits, factor, decimal.divisor, "bits per second");
  },
  render: (value) => renderScaled(value, bitScale),
};

const binaryScale: Scale = [
  ["TiB", 1n << 40n],
  ["GiB", 1n << 30n],
  ["MiB", 1n << 20n],
  ["KiB", 1n << 10n],
];
const decimalScale: Scale = [
  ["TB", 10n ** 12n],
  ["GB", 10n ** 9n],
  ["MB", 10n ** 6n],
  ["kB", 10n ** 3n],
  ["B", 1n],
];

/** Bytes. `b` would be read as bits by some, so it is refused. */
export const size: Notation = {
  expects: "a size such as 64KiB, 1MB or 1500 (bytes)",
  parse(text) {
    const decimal = parseDecimal(text);
    if (decimal?.suffix.endsWith("b")) throw badNotation(text, this.expects, ": bytes are written with a capital B");
    const suffix = (decimal?.suffix ?? "").replace(/B$/, "").toLowerCase();
    const factor = [...binaryScale, ...decimalScale].find(([name]) => name.slice(0, -1).toLowerCase() === suffix)?.[1];
    if (decimal === undefined || factor === undefined) throw badNotation(text, this.expects);
    return exactly(text, decimal.digits, factor, decimal.divisor, "bytes");
  },
  render(value) {
    for (const [suffix, factor] of binaryScale) {
      if (value !== 0n && value % factor === 0n) return `${value / factor}${suffix}`;
    }
    return renderScaled(value, decimalScale);
  },
};

const timeScale: Scale = [
  ["h", 3600n * 10n ** 9n],
  ["m", 60n * 10n ** 9n],
  ["s", 10n ** 9n],
  ["ms", 10n ** 6n],
  ["us", 10n ** 3n],
  ["ns", 1n],
];

/** Nanoseconds. A number without a unit is refused: seconds, says one, milliseconds, another. */
export const duration: Notation = {
  expects: "a duration such as 20ms, 1.5s or 10us",
  parse(text) {
    const decimal = parseDecimal(text);
    if (decimal?.suffix === "" && decimal.digits === 0n) return 0n;
    const factor = timeScale.find(([name]) => name === decimal?.suffix)?.[1];
    if (decimal === undefined || factor === undefined) {
      throw badNotation(
        text,
        this.expects,
        decimal?.suffix === "" ? ": the unit (ns, us, ms, s, m, h) is missing" : "",
      );
    }
    return exactly(text, decimal.digits, factor, decimal.divisor, "nanoseconds");
  },
  render(value) {
    if (value === 0n) return "0s";
    const longer = timeScale.slice(0, 2).find(([, factor]) => value % factor === 0n);
    return longer ? `${value / longer[1]}${longer[0]}` : renderScaled(value, timeScale.slice(2));
  },
};

/** Parts per million. */
export const percent: Notation = {
  expects: "a percentage such as 0.5%",
  parse(text) {
    const decimal = parseDecimal(text);
    if (decimal === undefined || !["", "%"].includes(decimal.suffix)) throw badNotation(text, this.expects);
    return exactly(text, decimal.digits, 10_000n, decimal.divisor, "millionths");
  },
  render(value) {
    const fraction = (value % 10_000n).toString().padStart(4, "0").replace(/0+$/, "");
    return `${value / 10_000n}${fraction === "" ? "" : `.${fraction}`}%`;
  },
};

/** Code points of RFC 2474 (CS), 2597 (AF), 3246 (EF) and 8622 (LE); the first name of a number is the canonical one. */
const codePoints: [name: string, value: bigint][] = [
  ["BE", 0n],
  ["DF", 0n],
  ["LE", 1n],
  ["EF", 46n],
  ...Array.from({ length: 8 }, (_, index): [string, bigint] => [`CS${index}`, BigInt(index * 8)]),
  ...[1, 2, 3, 4].flatMap((level) =>
    [1, 2, 3].map((drop): [string, bigint] => [`AF${level}${drop}`, BigInt(level * 8 + drop * 2)]),
  ),
];

/** Behind the code points: what a packet has stays. A program that cannot do that says `max=63`. */
const keep = 64n;

export const dscp: Notation = {
  expects: "a DSCP such as EF, AF41, CS3, BE, LE or 0 to 63, or keep",
  parse(text) {
    if (text.toLowerCase() === "keep") return keep;
    const found = codePoints.find(([name]) => name === text.toUpperCase());
    if (found) return found[1];
    const value = /^(\d{1,3}|0x[0-9a-f]{1,2})$/i.test(text) ? BigInt(text) : 64n;
    if (value > 63n) throw badNotation(text, this.expects);
    return value;
  },
  render: (value) =>
    value === keep ? "keep" : (codePoints.find((point) => point[1] === value)?.[0] ?? value.toString()),
};
