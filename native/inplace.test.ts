// SPDX-License-Identifier: Apache-2.0
/** Programs whose instructions belong to their stage, and those that have to be functions: both do the same. */
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Scratch, scratch } from "../e2e/lib/scratch.ts";
import { Chain, fixture, kernel, type Member, u32, verdict } from "./chain.ts";

const head = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "GPL";
`;

/** A program written in instructions; the mark is at r1 + 8, and 10 * mark + 5 is left there. */
const written = (body: string, ...others: string[]): string =>
  [body, ...others].reduce(
    (text, body, i) =>
      `${text} SEC("tc") __attribute__((naked)) int entry${i || ""}(struct __sk_buff *skb) { asm volatile("${body.trim().split("\n").join("\\n")}"); }`,
    head,
  );

/** One that uses each of the registers that calls keep, and so much stack; the mark is right if none of them was lost. */
const keepsAll = (slot: number, more = ""): string =>
  written(`
    r6 = r1
    r7 = *(u32 *)(r1 + 8)
    r7 *= 10
    r8 = 2
    r9 = 3
    *(u64 *)(r10 - ${slot}) = r8
    ${more}
    call 7
    r7 += r9
    r1 = *(u64 *)(r10 - ${slot})
    r7 += r1
    *(u32 *)(r6 + 8) = r7
    r0 = 3
    exit`);

/** Runs it between two others that write 1 and 9 behind the mark. */
function runs(world: Scratch, text: string, { flags = [] as string[], more = {} as Partial<Member> } = {}) {
  const around = (id: number): Member => ({
    object: fixture(world, "verdict"),
    entry: "give_verdict",
    parameters: { id: u32(id), verdict: u32(verdict.ok) },
  });
  const member = { object: readFileSync(world.compile({ text }, { flags })), entry: "entry", ...more };
  using chain = new Chain([around(1), member, around(9)]);
  return { ...chain.run(), placed: chain.stages[1]?.placed, endings: chain.counted(1).endings };
}
const passed = (placed: boolean) => ({ verdict: -1, mark: 159, placed, endings: {} });

test("a program that leaves a register alone, one that leaves none, one on nearly all of the stack", () => {
  using world = scratch();
  const plain = `${head} SEC("tc") int entry(struct __sk_buff *skb) { skb->mark = skb->mark * 10 + 5; return 0; }`;
  assert.equal(runs(world, plain), passed(true));
  assert.equal(runs(world, plain, { flags: ["-g0"] }), passed(true), "without BTF");
  for (const slot of [8, 16, 504]) assert.equal(runs(world, keepsAll(slot)), passed(true), `${slot} bytes of stack`);
  const all = keepsAll(504).replaceAll("r9", "r5").replace("call 7", "");
  assert.equal(runs(world, all.replaceAll("504", "512")), passed(true), "all of the stack, and a register is free");
});

test("where neither a register nor stack is left, the program is a function; and has to leave room for its caller", () => {
  using world = scratch();
  assert.throws(() => runs(world, keepsAll(512)), /combined stack size of 2 calls/);
});

test("each return of it is judged, whichever way it goes", () => {
  using world = scratch();
  const text = written(`
    r2 = *(u32 *)(r1 + 8)
    r3 = r2
    r3 *= 10
    r3 += 5
    *(u32 *)(r1 + 8) = r3
    r0 = -1
    if r2 == 1 goto +6
    r0 = 2
    if r2 == 2 goto +3
    r0 = 77
    if r2 == 3 goto +3
    exit
    exit
    exit
    r0 = 8
    exit`);
  const object = readFileSync(world.compile({ text }));
  const last = (id: number): ReturnType<Chain["run"]> & { endings: object } => {
    using chain = new Chain([
      { object: fixture(world, "verdict"), entry: "give_verdict", parameters: { id: u32(id), verdict: u32(0) } },
      { object, entry: "entry" },
      { object: fixture(world, "verdict"), entry: "give_verdict", parameters: { id: u32(9), verdict: u32(0) } },
    ]);
    assert.ok(chain.stages[1]?.placed);
    return { ...chain.run(), endings: chain.counted(1).endings };
  };
  assert.equal(last(1), { verdict: -1, mark: 159, endings: {} });
  assert.equal(last(2), { verdict: 2, mark: 25, endings: { shot: 1 } });
  assert.equal(last(3), { verdict: 8, mark: 35, endings: { trap: 1 } });
  assert.equal(last(4), { verdict: 77, mark: 45, endings: { other: 1 } });
});

/** `times` is to become 2. */
const calling = (functions: string, statement: string): string => `${head}
  static __noinline int deeper(struct __sk_buff *skb, int by) { skb->mark += by; return skb->mark; }
  __noinline int global(struct __sk_buff *skb) { skb->mark *= 10; return deeper(skb, 1); }
  ${functions}
  SEC("tc") int entry(struct __sk_buff *skb)
  {
    __u32 times = 0;
    if (global(skb) < 0) return 2;
    ${statement};
    return deeper(skb, 2) && times == 2 && deeper(skb, times) ? 3 : 2;
  }`;

test("functions that it calls return to it", () => {
  using world = scratch();
  const text = calling("", "times = 1 + (global(skb) > 0); skb->mark /= 10");
  assert.equal(runs(world, text), passed(true));
  assert.equal(runs(world, text, { flags: ["-g0"] }), passed(true), "without BTF");
});

test("what makes tail calls, and what is traced, is a function", () => {
  using world = scratch();
  const text = (calls: string) => `${head}
    struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4); }
      next SEC(".maps");
    static __noinline int deeper(struct __sk_buff *skb)
    { skb->mark += 5; ${calls === "deeper" ? "bpf_tail_call(skb, &next, 0);" : ""} return skb->len; }
    SEC("tc") int entry(struct __sk_buff *skb)
    {
      skb->mark *= 10;
      if (!deeper(skb)) return 2;
      ${calls === "entry" ? "bpf_tail_call(skb, &next, 0);" : ""}
      return 0;
    }`;
  assert.equal(runs(world, text("none")), passed(true));
  assert.equal(runs(world, text("entry")), passed(false));
  assert.equal(runs(world, text("deeper")), passed(false));
  const events = kernel.createMap({ type: "ringbuf", name: "events", keySize: 0, valueSize: 0, maxEntries: 4096 });
  const state = kernel.createMap({ type: "percpu_array", name: "state", keySize: 4, valueSize: 128, maxEntries: 1 });
  try {
    const trace = { events, state, sample: 1, bytes: 64, tag: 0 };
    assert.equal(runs(world, text("none"), { more: { trace } }), passed(false));
  } finally {
    kernel.close(events);
    kernel.close(state);
  }
});

test("a program that writes where its context waits is refused in that place, and loaded as a function", () => {
  using world = scratch();
  // The prologue looks for constants; this depth is put together out of registers.
  const hidden = `
    r2 = r10
    r1 = 8
    r1 *= -2
    r2 += r1
    *(u64 *)(r2 + 0) = r8`;
  assert.equal(runs(world, keepsAll(8, hidden)), passed(false));
  assert.equal(runs(world, keepsAll(8, hidden.replace("-2", "-3"))), passed(true), "deeper than that it may write");
});

test("as far as a jump reaches, and beyond", () => {
  using world = scratch();
  const body = (instructions: number): string => `
    r2 = *(u32 *)(r1 + 8)
    r2 *= 10
    r2 += 5
    *(u32 *)(r1 + 8) = r2
    r0 = 2
    if r2 == 0 goto +1
    r0 = 0
    .rept ${instructions}
    r3 = r2
    .endr
    exit`;
  const text = written(body(29000), body(32000));
  assert.equal(runs(world, text), passed(true));
  assert.equal(runs(world, text, { more: { entry: "entry1" } }), passed(false));
});

test("a load from the packet that ends a program ends that program alone", () => {
  using world = scratch();
  // Beyond the packet it is as if the program returned 0; of a stage it would be the end of the chain.
  const body = (load: string): string => `
    r6 = r1
    r7 = *(u32 *)(r1 + 8)
    r7 *= 10
    r7 += 5
    *(u32 *)(r1 + 8) = r7
    r1 = 100
    ${load}
    r0 = 2
    exit`;
  const text = written(body("r0 = *(u8 *)skb[100]"), body("r0 = *(u16 *)skb[r1]"));
  assert.equal(runs(world, text), passed(false));
  assert.equal(runs(world, text, { more: { entry: "entry1" } }), passed(false));
});

test("what a program has not set it does not find set by its stage", () => {
  using world = scratch();
  const object = readFileSync(
    world.compile({
      text: written(
        "exit",
        "r2 = *(u32 *)(r1 + 8)\nif r2 == 1 goto +1\nr0 = 0\nexit",
        "r0 = r6\nexit",
        "r0 = r6\nr7 = 1\nr8 = 1\nr9 = 1\nexit",
      ),
    }),
  );
  const load = (entry: string) => () => new Chain([{ object, entry }])[Symbol.dispose]();
  for (const entry of ["entry", "entry1"]) assert.throws(load(entry), /R0 !read_ok/);
  for (const entry of ["entry2", "entry3"]) assert.throws(load(entry), /R6 !read_ok/);
});

// The last: where the kernel has none, what is compiled in the other tests is counted as elsewhere (e2e/kernels/compiler.sh).
test("functions that the kernel calls back return to it", () => {
  using world = scratch();
  const text = calling(
    "static long each(__u32 index, void *context) { *(__u32 *)context += 1; return 0; }",
    "bpf_loop(2, each, &times, 0)",
  );
  assert.equal(runs(world, text), passed(true));
  assert.equal(runs(world, text, { flags: ["-g0"] }), passed(true), "without BTF");
});

test.run();
