// SPDX-License-Identifier: Apache-2.0
/** What an inspection reports of an object, and how it refuses what is none. Nothing here is loaded into the kernel. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../e2e/lib/scratch.ts";
import { KernelError, type ObjectInfo } from "../plugin/kernel/port.ts";
import { fixture, kernel } from "./chain.ts";

function refusal(object: Buffer): KernelError {
  try {
    kernel.inspectObject(object);
  } catch (error) {
    if (error instanceof KernelError) return error;
    throw error;
  }
  throw new Error("the object was taken");
}

const program = (info: ObjectInfo, name: string) => info.programs.find((program) => program.name === name);

test("parameters: names, types, initial bytes and tags, static ones included", () => {
  using world = scratch();
  const object = fixture(world, "describe");
  const info = kernel.inspectObject(object);
  assert.is(info.license, "GPL");
  assert.is(info.btf, true);
  assert.is(info.sha256, createHash("sha256").update(object).digest("hex"));
  const by = new Map(info.parameters.map((parameter) => [parameter.name, parameter]));
  assert.equal([...by.keys()].sort(), ["label", "mode", "range", "rate", "strict"]);

  const rate = by.get("rate");
  assert.equal(rate?.type, { kind: "int", name: "__u64", size: 8, signed: false, encoding: "int" });
  assert.is(rate?.initial.readBigUInt64LE(), 1000000n);
  assert.equal(rate?.tags, ["unit=rate", "help=bits per second"]);
  assert.equal(by.get("strict")?.type, { kind: "int", name: "_Bool", size: 1, signed: false, encoding: "bool" });
  assert.equal([...(by.get("strict")?.initial ?? [])], [1]);
  assert.equal(by.get("label")?.type, {
    kind: "array",
    size: 16,
    length: 16,
    element: { kind: "int", name: "char", size: 1, signed: true, encoding: "char" },
  });
  assert.is(by.get("label")?.initial.toString("latin1"), "pod".padEnd(16, "\0"));
  assert.equal(by.get("mode")?.type, {
    kind: "enum",
    name: "mode",
    size: 4,
    signed: true,
    values: [
      { name: "MODE_OFF", value: -1n },
      { name: "MODE_ON", value: 5n },
    ],
  });
  const range = by.get("range")?.type;
  assert.ok(range?.kind === "struct");
  assert.equal(
    range?.members.map(({ name, bitOffset, bitSize }) => [name, bitOffset, bitSize]),
    [
      ["first", 0, 16],
      ["last", 16, 16],
      ["low", 32, 3],
      ["high", 35, 5],
    ],
  );
  assert.equal([...(by.get("range")?.initial.subarray(0, 4) ?? [])], [1, 0, 2, 0]);
});

test("maps: types, sizes, pins, tags; internal ones by the name of their section", () => {
  using world = scratch();
  const info = kernel.inspectObject(fixture(world, "describe"));
  const { layout, ...flows } = info.maps.find((map) => map.name === "flows") ?? {};
  assert.match(layout ?? "", /^[0-9a-f]{16}$/);
  assert.equal(flows, {
    name: "flows",
    type: "lru_hash",
    keySize: 4,
    valueSize: 8,
    maxEntries: 64,
    flags: 0,
    pinned: true,
    internal: false,
    tags: ["scope=node"],
  });
  const rodata = info.maps.find((map) => map.name === ".rodata");
  assert.ok(rodata?.internal && !rodata.pinned);
});

test("programs: tail calls along all calls, and helpers that resize", () => {
  using world = scratch();
  const info = kernel.inspectObject(fixture(world, "describe"));
  const { tailCalls, resizes, inner, type, section } = program(info, "described") ?? {};
  assert.equal(
    { tailCalls, resizes, inner, type, section },
    {
      tailCalls: 2,
      resizes: false,
      inner: false,
      type: "sched_cls",
      section: "tc",
    },
  );
  assert.is(program(info, "resizing")?.resizes, true);
  assert.is(program(info, "resizing")?.tailCalls, 0);

  const nested = kernel.inspectObject(fixture(world, "shape-inner"));
  assert.is(program(nested, "parse")?.tailCalls, 1);
  assert.is(program(nested, "parse")?.inner, false);
  assert.is(program(nested, "parse_deeper")?.inner, true);
});

test("every section that libbpf does not know is one of TC; what it knows otherwise keeps its type", () => {
  using world = scratch();
  const sections = {
    tc: "sched_cls",
    classifier: "sched_cls",
    "tc/ingress": "sched_cls",
    "tc/anything": "sched_cls",
    "tcx/ingress": "sched_cls",
    "tcx/egress": "sched_cls",
    "netkit/peer": "sched_cls",
    action: "sched_cls",
    "classifier/foo": "sched_cls",
    "tc-ingress": "sched_cls",
    tc_egress_flow_monitoring: "sched_cls",
    ingress: "sched_cls",
    xdp: "xdp",
    "kprobe/x": "kprobe",
    "cgroup_skb/egress": "cgroup_skb",
  };
  const functions = Object.keys(sections).map((section, i) => `SEC("${section}") int f${i}(void *ctx) { return 0; }`);
  const text = `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    ${functions.join("\n")}
    char _license[] SEC("license") = "GPL";`;
  const info = kernel.inspectObject(readFileSync(world.compile({ text })));
  assert.equal(Object.fromEntries(info.programs.map(({ section, type }) => [section, type])), sections);
});

test("an object without BTF has programs and maps of nothing but sections, and no parameters", () => {
  using world = scratch();
  const info = kernel.inspectObject(fixture(world, "shape-plain", ["-g0"]));
  assert.is(info.btf, false);
  assert.equal(info.parameters, []);
  assert.is(program(info, "plain")?.section, "classifier/foo");
});

test("what is no object for this machine is refused with the reason", () => {
  using world = scratch();
  const compiled = (text: string, flags: string[] = []) => readFileSync(world.compile({ text }, { flags }));
  const good = fixture(world, "verdict");
  const patched = (offset: number, value: number): Buffer => {
    const copy = Buffer.from(good);
    copy.writeUInt8(value, offset);
    return copy;
  };
  const legacy = `struct bpf_map_def { unsigned int type, key_size, value_size, max_entries, map_flags; };
    __attribute__((section("maps"), used)) struct bpf_map_def old = { 2, 4, 4, 1, 0 };
    __attribute__((section("tc"), used)) int f(void *ctx) { return 0; }
    __attribute__((section("license"), used)) char _license[] = "GPL";`;
  const cases: [string, Buffer, RegExp][] = [
    ["nothing", Buffer.alloc(0), /not an ELF file/],
    ["text", Buffer.from("#!/bin/sh\necho hello\n"), /not an ELF file/],
    ["an executable", readFileSync("/bin/true"), /for another machine \(e_machine \d+\)/],
    ["big endian", compiled("int f(void) { return 0; }", ["-target", "bpfeb"]), /other byte order .* -target bpfel/],
    ["32 bits", patched(4, 1), /32-bit ELF/],
    ["not relocatable", patched(16, 2), /no relocatable object/],
    ["legacy maps", compiled(legacy, ["-g0"]), /legacy section "maps"/],
    ["no program", compiled("int x = 1;"), /holds no program/],
    ["a header alone", good.subarray(0, 40), /ends inside the ELF header/],
  ];
  for (const [name, object, reason] of cases) {
    const error = refusal(object);
    assert.is(error.code, "EREFUSED", name);
    assert.is(error.operation, "inspectObject", name);
    assert.match(error.message, reason, name);
  }
});

test("a truncated object is refused, wherever it ends", () => {
  using world = scratch();
  for (const name of ["describe", "shape-inner"]) {
    const good = fixture(world, name);
    for (let length = 0; length < good.length; length += 7) {
      const error = refusal(good.subarray(0, length));
      assert.is(error.code, "EREFUSED", `${name}, ${length} bytes`);
    }
  }
});

test("damaged bytes never crash: each inspection ends in a description or a refusal", () => {
  using world = scratch();
  // A fixed generator, so that a failure can be repeated.
  let state = 12345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (const name of ["describe", "shape-inner", "shape-functions"]) {
    const good = fixture(world, name);
    let refused = 0;
    for (let round = 0; round < 1500; round++) {
      const bad = Buffer.from(good);
      for (let hits = 1 + random(4); hits > 0; hits--) bad.writeUInt8(random(256), random(bad.length));
      try {
        kernel.inspectObject(bad);
      } catch (error) {
        if (!(error instanceof KernelError)) throw error;
        assert.is(error.code, "EREFUSED");
        refused++;
      }
    }
    assert.ok(refused > 0, name);
  }
});

test("a name that many symbols share is not held many times", () => {
  using world = scratch();
  const plain = fixture(world, "verdict");
  const { programs } = kernel.inspectObject(plain);
  const object = swollen(plain, 1 << 20, 1000);
  const before = process.resourceUsage().maxRSS;
  assert.equal(kernel.inspectObject(object).programs, programs);
  const grown = (process.resourceUsage().maxRSS - before) >>> 10;
  assert.ok(grown < 200, `${grown} MiB for an object of ${object.length >> 10} KiB`);
});

/** The same object, with so many more symbols that all have one name of so many bytes. */
function swollen(object: Buffer, length: number, count: number): Buffer {
  const sections = Number(object.readBigUInt64LE(0x28));
  const header = (index: number): Buffer => object.subarray(sections + index * 64, sections + (index + 1) * 64);
  const content = (at: Buffer): Buffer => {
    const offset = Number(at.readBigUInt64LE(24));
    return object.subarray(offset, offset + Number(at.readBigUInt64LE(32)));
  };
  const all = Array.from({ length: object.readUInt16LE(0x3c) }, (_, index) => header(index));
  const symbols = all.find((at) => at.readUInt32LE(4) === 2 /* SHT_SYMTAB */) as Buffer;
  const strings = header(symbols.readUInt32LE(40));
  const symbol = Buffer.alloc(24);
  symbol.writeUInt32LE(content(strings).length);
  const parts = [object];
  for (const [at, more] of [
    [symbols, Buffer.concat(Array(count).fill(symbol))],
    [strings, Buffer.concat([Buffer.alloc(length, "a"), Buffer.alloc(1)])],
  ] as const) {
    const bytes = Buffer.concat([content(at), more]);
    const offset = parts.reduce((sum, part) => sum + part.length, 0);
    parts.push(bytes, Buffer.alloc(-bytes.length & 7));
    at.writeBigUInt64LE(BigInt(offset), 24);
    at.writeBigUInt64LE(BigInt(bytes.length), 32);
  }
  return Buffer.concat(parts);
}

test.run();
