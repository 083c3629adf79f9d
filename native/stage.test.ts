// SPDX-License-Identifier: Apache-2.0
/** What a loaded chain does with packets: verdicts, counters, parameters, maps. On this machine's kernel. */
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../e2e/lib/scratch.ts";
import { type Ending, KernelError } from "../plugin/kernel/port.ts";
import { Chain, fixture, kernel, type Member, u32, verdict } from "./chain.ts";

/** Members that return the verdicts given; each leaves its position + 1 in the mark. */
function members(object: Buffer, verdicts: number[], more: Partial<Member> = {}): Member[] {
  return verdicts.map((value, i) => ({
    object,
    entry: "give_verdict",
    parameters: { id: u32(i + 1), verdict: u32(value) },
    ...more,
  }));
}

function refusal(run: () => unknown): KernelError {
  try {
    run();
  } catch (error) {
    if (error instanceof KernelError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

test("UNSPEC, OK and PIPE go on, and the last position returns TCX_NEXT", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  for (const last of [verdict.unspec, verdict.ok, verdict.pipe]) {
    using chain = new Chain(members(object, [verdict.unspec, verdict.ok, verdict.pipe, last]));
    assert.equal(chain.run(), { verdict: -1, mark: 1234 });
  }
});

/** `struct remora_ending` as each CPU has it. */
function endingsIn(map: number): [ending: number, verdict: number, program: string][] {
  const bytes = kernel.lookupMap(map, u32(0)) ?? Buffer.alloc(0);
  return Array.from({ length: bytes.length / 24 }, (_, cpu) => {
    const told = bytes.subarray(cpu * 24, (cpu + 1) * 24);
    return [told.readUInt32LE(0), told.readInt32LE(4), told.toString("latin1", 8).replace(/\0+$/, "")] as [
      number,
      number,
      string,
    ];
  }).filter(([ending]) => ending !== 0);
}

test("who wants to know is told how a packet ended, with which verdict, by which program", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const map = kernel.createMap({ type: "percpu_array", name: "ended", keySize: 4, valueSize: 24, maxEntries: 1 });
  const told = (verdicts: number[], missing: number[] = []): ReturnType<typeof endingsIn> => {
    kernel.updateMap(map, u32(0), Buffer.alloc(kernel.lookupMap(map, u32(0))?.length ?? 0));
    using chain = new Chain(
      members(object, verdicts).map((member, i) =>
        i === 0 ? member : { ...member, name: names[i] ?? "", endings: [map] },
      ),
      missing,
    );
    chain.run();
    return endingsIn(map);
  };
  const names = ["first", "second", "a-name-of-more-than-15-bytes"];
  try {
    const { ok, shot, redirect } = verdict;
    assert.equal(told([ok, shot, ok]), [[3, 2, "second"]]);
    assert.equal(told([ok, ok, redirect]), [[8, 7, "a-name-of-more-"]]);
    assert.equal(told([ok, ok, 99]), [[11, 99, "a-name-of-more-"]]);
    assert.equal(told([ok, ok, ok], [2]), [[12, 2, "second"]], "broken, and dropped");
    assert.equal(told([ok, ok, ok]), [], "it came to the end");
    assert.equal(told([shot, ok, ok]), [], "it ended before those who tell");
  } finally {
    kernel.close(map);
  }
});

test("every other verdict ends the chain, is returned and counted by its name", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const ends: [number, Ending][] = [
    [1, "reclassify"],
    [2, "shot"],
    [4, "stolen"],
    [5, "queued"],
    [6, "repeat"],
    [7, "redirect"],
    [8, "trap"],
    [9, "other"],
    [-2, "other"],
    [0x7fffffff, "other"],
  ];
  for (const [value, name] of ends) {
    using chain = new Chain(members(object, [verdict.ok, value, verdict.ok]));
    assert.equal(chain.run(), { verdict: value, mark: 12 }, `verdict ${value}`);
    assert.equal(chain.counted(1), { headPackets: 0, headBytes: 0, endedBytes: 64, endings: { [name]: 1 } });
  }
});

test("proceedOn is the program's own", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const only = { proceedOn: [verdict.shot] };
  using goes = new Chain(members(object, [verdict.shot, verdict.shot], only));
  assert.equal(goes.run(), { verdict: -1, mark: 12 });
  for (const [value, name] of [
    [verdict.ok, "ok"],
    [verdict.unspec, "unspec"],
    [verdict.pipe, "pipe"],
  ] as const) {
    using ends = new Chain(members(object, [value, verdict.ok], only));
    assert.equal(ends.run(), { verdict: value, mark: 1 });
    assert.equal(ends.counted(0).endings, { [name]: 1 });
  }
  using never = new Chain(members(object, [verdict.ok, verdict.ok], { proceedOn: [] }));
  assert.equal(never.run(), { verdict: verdict.ok, mark: 1 });
});

test("a verdict is its lower 32 bits, whatever the function's type", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const wide = (value: number): Member => ({
    object,
    entry: "give_wide_verdict",
    parameters: { verdict: u32(value) },
  });
  using goes = new Chain([wide(verdict.unspec), ...members(object, [verdict.ok])]);
  assert.equal(goes.run(), { verdict: -1, mark: 1 });
  using ends = new Chain([wide(verdict.shot), ...members(object, [verdict.ok])]);
  assert.equal(ends.run(), { verdict: verdict.shot, mark: 0 });
  assert.equal(ends.counted(0).endings, { shot: 1 });
});

test("packets and bytes are counted at the head and where they end, and nowhere else", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  using chain = new Chain(members(object, [verdict.ok, verdict.ok, verdict.shot]));
  for (const length of [64, 100, 1500]) chain.run(Buffer.alloc(length));
  assert.equal(chain.counted(0), { headPackets: 3, headBytes: 1664, endedBytes: 0, endings: {} });
  assert.equal(chain.counted(1), { headPackets: 0, headBytes: 0, endedBytes: 0, endings: {} });
  assert.equal(chain.counted(2), { headPackets: 0, headBytes: 0, endedBytes: 1664, endings: { shot: 3 } });
  kernel.testRun({ program: (chain.stages[0] as { program: number }).program, packet: Buffer.alloc(64), repeat: 100 });
  assert.is(chain.counted(0).headPackets, 103);
  assert.is(chain.counted(2).endings.shot, 103);
});

test("a head that counts may stand anywhere", () => {
  using world = scratch();
  const object = fixture(world, "describe");
  const verdicts = fixture(world, "verdict");
  using chain = new Chain([
    { object, entry: "resizing" },
    ...members(verdicts, [verdict.shot]).map((member) => ({ ...member, countHead: true })),
  ]);
  chain.run(Buffer.alloc(64));
  assert.equal(chain.counted(0), { headPackets: 1, headBytes: 64, endedBytes: 0, endings: {} });
  assert.equal(chain.counted(1), { headPackets: 1, headBytes: 100, endedBytes: 100, endings: { shot: 1 } });
});

test("32 positions run", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const all = Array.from({ length: 32 }, () => verdict.ok as number);
  using chain = new Chain(members(object, all, { parameters: { id: u32(0) } }));
  assert.is(chain.run().verdict, -1);
  for (const stage of chain.stages) {
    const runs = stage.maps.find((map) => map.name === "runs");
    assert.is(kernel.lookupMap((runs as { fd: number }).fd, u32(0))?.readBigUInt64LE(), 1n);
  }
  assert.equal(chain.counted(31).endings, {});
});

test("a tail call to a position that is gone is broken, never an end", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const three = [verdict.ok, verdict.ok, verdict.ok];
  using closed = new Chain(members(object, three, { failurePolicy: "closed" }), [2]);
  assert.equal(closed.run(), { verdict: verdict.shot, mark: 12 });
  assert.equal(closed.counted(1), { headPackets: 0, headBytes: 0, endedBytes: 64, endings: { broken: 1 } });
  using open = new Chain(members(object, three, { failurePolicy: "open" }), [2]);
  assert.equal(open.run(), { verdict: -1, mark: 12 });
  assert.equal(open.counted(1).endings, { broken: 1 });
});

test("one object stands twice in a chain, with parameters and maps of its own each", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const before = Buffer.from(object);
  using chain = new Chain([
    { object, entry: "give_verdict", parameters: { id: u32(7) } },
    { object, entry: "give_verdict", parameters: { id: u32(3), verdict: u32(verdict.stolen) } },
  ]);
  assert.equal(chain.run(), { verdict: verdict.stolen, mark: 73 });
  const ids = chain.stages.flatMap((stage) => stage.maps.map((map) => map.id));
  assert.is(new Set(ids).size, ids.length);
  assert.ok(object.equals(before), "the object's bytes are only read");
});

test("a map is used again, under its own name; one of another shape is refused", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const shared = kernel.createMap({ type: "array", name: "other_name", keySize: 4, valueSize: 8, maxEntries: 1 });
  const wrong = kernel.createMap({ type: "array", name: "runs", keySize: 4, valueSize: 16, maxEntries: 1 });
  try {
    using chain = new Chain(members(object, [verdict.ok, verdict.ok], { reuse: [{ name: "runs", fd: shared }] }));
    chain.run();
    assert.is(kernel.lookupMap(shared, u32(0))?.readBigUInt64LE(), 2n);
    for (const stage of chain.stages) {
      const map = stage.maps.find((map) => map.name === "runs");
      assert.is(map?.id, kernel.mapInfo(shared).id);
    }
    const error = refusal(() => new Chain(members(object, [0], { reuse: [{ name: "runs", fd: wrong }] })));
    assert.is(error.code, "EREFUSED");
    assert.match(error.message, /map "runs" cannot be used again: its type or sizes differ/);
    assert.match(
      refusal(() => new Chain(members(object, [0], { reuse: [{ name: "nope", fd: wrong }] }))).message,
      /no map "nope"/,
    );
  } finally {
    kernel.close(shared);
    kernel.close(wrong);
  }
});

test("what cannot stand in a chain is refused with the reason", () => {
  using world = scratch();
  const object = fixture(world, "verdict");
  const mixed = fixture(world, "shape-mixed");
  const inner = fixture(world, "shape-inner");
  const cases: [Member, RegExp][] = [
    [{ object, entry: "nope" }, /no program function "nope"/],
    [{ object: mixed, entry: "early" }, /"early" is of type xdp .*takes only TC programs/],
    [{ object: mixed, entry: "probe" }, /"probe" is of type kprobe/],
    [{ object: inner, entry: "parse_deeper" }, /"parse_deeper" stands in the object's own PROG_ARRAY "steps"/],
    [{ object, entry: "give_verdict", parameters: { nope: u32(1) } }, /no parameter "nope"/],
    [{ object, entry: "give_verdict", parameters: { id: Buffer.alloc(8) } }, /"id" has another size than the 8 bytes/],
  ];
  for (const [member, reason] of cases) {
    const error = refusal(() => new Chain([member]));
    assert.is(error.operation, "loadStage");
    assert.is(error.code, "EREFUSED");
    assert.match(error.message, reason);
  }
});

test("a program that throws is refused", () => {
  using world = scratch();
  const text = `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    extern void bpf_throw(__u64 cookie) __ksym;
    static __noinline int deeper(struct __sk_buff *skb) { if (skb->len > 9000) bpf_throw(0); return skb->len; }
    SEC("tc") int throwing(struct __sk_buff *skb) { return deeper(skb) ? 0 : 2; }
    char _license[] SEC("license") = "GPL";`;
  const error = refusal(() => new Chain([{ object: compiled(world, text), entry: "throwing" }]));
  assert.is(error.code, "EREFUSED");
  assert.match(error.message, /"throwing" calls bpf_throw/);
});

test("the verifier's refusal says why in one line, and keeps the log", () => {
  using world = scratch();
  const text = `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    SEC("tc") int reads_beyond(struct __sk_buff *skb) { return *(__u32 *)(long)skb->data; }
    char _license[] SEC("license") = "GPL";`;
  for (const flags of [[], ["-g0"]]) {
    const object = compiled(world, text, flags);
    const error = refusal(() => new Chain([{ object, entry: "reads_beyond", name: "demo" }]));
    assert.is(error.code, "EACCES");
    assert.match(
      error.message,
      /^program "demo", function "reads_beyond": the verifier refused it: invalid access to packet/,
    );
    assert.not.match(error.message, /processed \d+ insns|takes root/);
    if (flags.length === 0) assert.match(error.message, /\(at: SEC\("tc"\) int reads_beyond/);
    assert.match(error.log ?? "", /processed \d+ insns/);
  }
});

test("a log that has no room for all that the verifier went through still says why, and is kept to what can be read", () => {
  using world = scratch();
  const text = `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    SEC("tc") int goes_far(struct __sk_buff *skb)
    {
      __u32 x = skb->len;
    #pragma clang loop unroll(disable)
      for (int i = 0; i < 40000; i++) x = x * 31 + skb->mark + i;
      return x + *(__u32 *)(long)skb->data;
    }
    char _license[] SEC("license") = "GPL";`;
  const error = refusal(() => new Chain([{ object: compiled(world, text), entry: "goes_far", name: "demo" }]));
  assert.is(error.code, "EACCES", "not ENOSPC, which is the log's");
  assert.match(error.message, /the verifier refused it: .*invalid access to packet/);
  const { log = "" } = error;
  assert.ok(log.length < 1 << 18, `${log.length} bytes`);
  assert.match(log, /^\[\d{7,} bytes of the log are left out here\]$/m);
  assert.match(log, /^processed \d{6} insns/m);
});

test("the entry is verified as a global function, whatever the object says of it", () => {
  // The verifier announces each global function that it verifies by itself; a static one it never does. That is what
  // keeps it from taking the verdict of an entry that tail-calls inside itself for a constant (Linux up to 6.12).
  using world = scratch();
  const text = (entry: string) => `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4); }
      next SEC(".maps");
    SEC("tc") ${entry} { bpf_tail_call(ctx, &next, 0); return *(__u32 *)(long)((struct __sk_buff *)ctx)->data; }
    char _license[] SEC("license") = "GPL";`;
  for (const entry of [
    "int entry(struct __sk_buff *ctx)",
    "int entry(void *ctx)",
    "__u64 entry(void *ctx)",
    "__hidden int entry(struct __sk_buff *ctx)",
    "__weak int entry(struct __sk_buff *ctx)",
  ]) {
    const error = refusal(() => new Chain([{ object: compiled(world, text(entry)), entry: "entry" }]));
    assert.match(error.log ?? "", /^Validating entry\(\) func#1/m, entry);
  }
  const withoutMaps = `#include <linux/bpf.h>
    __attribute__((section("tc"), used)) int entry(struct __sk_buff *ctx) { return *(__u32 *)(long)ctx->data; }`;
  const error = refusal(() => new Chain([{ object: compiled(world, withoutMaps, ["-g0"]), entry: "entry" }]));
  assert.match(error.log ?? "", /^Validating entry\(\) func#1/m, "no BTF");
});

test("too much stack and too many frames are told like other refusals", () => {
  using world = scratch();
  const text = `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    static __noinline int deeper(struct __sk_buff *skb)
    { volatile char room[304] = {}; return room[skb->len & 255]; }
    SEC("tc") int deep(struct __sk_buff *skb)
    { volatile char room[304] = {}; return room[skb->len & 255] + deeper(skb); }
    char _license[] SEC("license") = "GPL";`;
  const error = refusal(() => new Chain([{ object: compiled(world, text), entry: "deep" }]));
  assert.is(error.code, "EACCES");
  assert.match(error.message, /combined stack size|stack/);
});

function compiled(world: ReturnType<typeof scratch>, text: string, flags: string[] = []): Buffer {
  return readFileSync(world.compile({ text }, { flags }));
}

test("a map that parameters make needless is left out; where code reaches it all the same, the verifier says so", () => {
  using world = scratch();
  const text = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
  list SEC(".maps");
const volatile _Bool asks = 0;
SEC("tc") int handle(struct __sk_buff *skb) { return asks && bpf_map_lookup_elem(&list, &(__u32){ 0 }) ? 2 : 0; }
char _license[] SEC("license") = "GPL";`;
  const member = { object: readFileSync(world.compile({ text })), entry: "handle" };
  const asks = { asks: Buffer.from([1]) };
  for (const [more, expected, maps] of [
    [{}, -1, [".rodata", "list"]],
    [{ without: ["list"] }, -1, [".rodata"]],
    [{ parameters: asks }, 2, [".rodata", "list"]],
  ] as const) {
    using chain = new Chain([{ ...member, ...more } as Member]);
    assert.is(chain.run().verdict, expected);
    assert.equal(chain.stages[0]?.maps.map(({ name }) => name).sort(), maps);
  }
  const reached = refusal(() => new Chain([{ ...member, parameters: asks, without: ["list"] }]));
  assert.match(reached.message, /verifier refused it: .*'?list'?/);
  assert.match(refusal(() => new Chain([{ ...member, without: ["lists"] }])).message, /no map "lists" to leave out/);
});

test.run();
