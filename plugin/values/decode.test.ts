// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { BtfType } from "../kernel/port.ts";
import { type Decoded, decode, decodeSum, splitCpus, untyped } from "./decode.ts";

const int = (size: number, signed = false): BtfType => ({ kind: "int", name: "", size, signed, encoding: "int" });
const u8 = int(1);
const u16 = int(2);
const u32 = int(4);
const u64 = int(8);
const bool: BtfType = { kind: "int", name: "_Bool", size: 1, signed: false, encoding: "bool" };
const char: BtfType = { kind: "int", name: "char", size: 1, signed: true, encoding: "char" };
const list = (element: BtfType, length: number): BtfType => ({
  kind: "array",
  size: element.size * length,
  length,
  element,
});
const colour: BtfType = {
  kind: "enum",
  name: "colour",
  size: 4,
  signed: true,
  values: [
    { name: "NONE", value: 0n },
    { name: "RED", value: 1n },
    { name: "MINUS", value: -1n },
  ],
};
function struct(size: number, ...members: [string, number, number, BtfType][]): BtfType {
  return {
    kind: "struct",
    name: "s",
    size,
    members: members.map(([name, bitOffset, bitSize, type]) => ({ name, bitOffset, bitSize, type })),
  };
}
const flow = struct(8, ["address", 0, 32, list(u8, 4)], ["port", 32, 16, u16], ["open", 48, 8, bool]);
const anonymous = struct(
  8,
  ["id", 0, 32, u32],
  [
    "",
    32,
    32,
    {
      kind: "union",
      name: "",
      size: 4,
      members: [
        { name: "whole", bitOffset: 0, bitSize: 32, type: u32 },
        { name: "low", bitOffset: 0, bitSize: 16, type: u16 },
      ],
    },
  ],
);
const bits = struct(4, ["a", 0, 3, u32], ["b", 3, 7, u32], ["c", 10, 2, int(4, true)]);

const single: [string, BtfType, string, Decoded][] = [
  ["u8", u8, "ff", 255],
  ["s8", int(1, true), "ff", -1],
  ["u32", u32, "01020304", 0x04030201],
  ["u64 that a number holds", u64, "ffffffffffff1f00", Number.MAX_SAFE_INTEGER],
  ["u64 that none holds", u64, "ffffffffffffffff", "18446744073709551615"],
  ["s64", int(8, true), "feffffffffffffff", -2],
  ["s64 far below", int(8, true), "0000000000000080", "-9223372036854775808"],
  ["u128", int(16), "00000000000000000100000000000000", "18446744073709551616"],
  ["true", bool, "01", true],
  ["false", bool, "00", false],
  ["neither", bool, "07", 7],
  ["enum by name", colour, "01000000", "RED"],
  ["enum below 0", colour, "ffffffff", "MINUS"],
  ["enum that has no name", colour, "09000000", 9],
  ["text", list(char, 6), "746573740041", "test"],
  ["no text", list(char, 2), "1b5b", [27, 91]],
  ["empty text", list(char, 2), "0000", ""],
  ["bytes of an address stay numbers", list(u8, 4), "0a000001", [10, 0, 0, 1]],
  [
    "table of tables",
    list(list(u16, 2), 2),
    "0100020003000400",
    [
      [1, 2],
      [3, 4],
    ],
  ],
  ["struct", flow, "0a000001901f0100", { address: [10, 0, 0, 1], port: 8080, open: true }],
  ["nameless union", anonymous, "0100000002000300", { id: 1, whole: 0x30002, low: 2 }],
  ["bit fields", bits, "ed0d0000", { a: 5, b: 61, c: -1 }],
  ["double", { kind: "float", name: "double", size: 8 }, "000000000000f83f", 1.5],
  ["pointer", untyped(8), "0010000000000000", 4096],
  ["nothing known", untyped(3), "0a0b0c", "0a0b0c"],
  ["bytes missing", u32, "01", 1],
];

for (const [what, type, hex, value] of single)
  test(`one value: ${what}`, () => {
    assert.equal(decode(type, Buffer.from(hex, "hex")), value);
  });

const summed: [string, BtfType, string[], Decoded][] = [
  ["numbers add up", u32, ["01000000", "02000000"], 3],
  ["beyond their type", u8, ["ff", "ff"], 510],
  ["beyond a number", u64, ["ffffffffffff1f00", "0100000000000000"], "9007199254740992"],
  ["with signs", int(4, true), ["ffffffff", "03000000"], 2],
  [
    "in structs and lists",
    struct(8, ["n", 0, 64, list(u32, 2)]),
    ["0100000002000000", "0300000004000000"],
    { n: [4, 6] },
  ],
  ["names that agree", colour, ["01000000", "01000000"], "RED"],
  ["names where a CPU never ran", colour, ["01000000", "00000000"], "RED"],
  ["names that differ", colour, ["01000000", "ffffffff"], null],
  ["texts that differ", list(char, 2), ["6100", "6200"], null],
  ["nothing anywhere", flow, ["0000000000000000", "0000000000000000"], { address: [0, 0, 0, 0], port: 0, open: false }],
];

for (const [what, type, hex, value] of summed)
  test(`values of several CPUs: ${what}`, () => {
    assert.equal(
      decodeSum(
        type,
        hex.map((each) => Buffer.from(each, "hex")),
      ),
      value,
    );
  });

test("values of per-CPU maps are padded to 8 bytes", () => {
  const value = Buffer.from("0a0b0c00000000000d0e0f0000000000", "hex");
  assert.equal(
    splitCpus(value, 3).map((each) => each.toString("hex")),
    ["0a0b0c", "0d0e0f"],
  );
});

test.run();
