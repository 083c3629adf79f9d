// SPDX-License-Identifier: Apache-2.0
/**
 * BPF programs made up at random, the same for the same seed: what a loader has to do right for programs that nobody has
 * seen. They are written in instructions, so that registers, stack and ways out are used as no compiler would use them, and
 * each comes to an end with whatever verdict its arithmetic led to.
 */

/** Numbers from 0 to 2^32 - 1 (mulberry32). */
function numbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

const arithmetic = ["+=", "-=", "*=", "&=", "|=", "^=", "/="];
const comparisons = ["==", "!=", ">", ">=", "<", "<=", "s>", "s<"];
const verdicts = [-1, 0, 0, 1, 2, 3, 3, 4, 5, 8, 9, 200];
/** Fields of `struct __sk_buff`: len, mark, protocol, vlan_present, priority, cb[0], cb[3]. */
const readable = [0, 8, 16, 20, 32, 48, 60];
const writable = [8, 32, 48, 60];
const depths = [0, 8, 16, 24, 64, 256, 480, 496, 504, 512];
/** `tcp` of bpf/packets.ts in IPv4 is 54 bytes. */
const furthest = 80;

/** An instruction that the assembler does not know, or not yet. */
function raw(code: number, dst: number, src: number, off: number, imm: number): string {
  const low = BigInt(code | (dst << 8) | (src << 12)) | (BigInt(off & 0xffff) << 16n);
  return `.quad ${low | (BigInt(imm >>> 0) << 32n)}`;
}

const both = (a: Set<number>, b: Set<number>): Set<number> => new Set([...a].filter((one) => b.has(one)));

class Program {
  readonly lines: string[] = [];
  private readonly random: () => number;
  private readonly name: string;
  /** Registers that may be written at any time; those of them that hold a number now. */
  private readonly registers: number[];
  private numbers = new Set<number>();
  /** Slots of 8 bytes that hold a number, by their distance from r10. */
  private slots = new Set<number>();
  readonly depth: number;
  /** Where the context is: a register, or 0: the deepest slot. */
  private readonly context: number;
  /** Whether it calls functions, or loads as cBPF did. */
  private readonly calls: boolean;
  private labels = 0;

  private readonly maps: boolean;

  constructor(name: string, random: () => number, maps: boolean) {
    this.random = random;
    this.maps = maps;
    this.name = name;
    const kept = [6, 7, 8, 9].filter(() => this.below(3) > 0);
    this.depth = this.pick(depths);
    this.calls = this.below(3) > 0;
    this.context = kept.length === 0 || (this.depth > 0 && this.below(6) === 0) ? 0 : (kept[0] as number);
    if (this.context === 0 && this.depth === 0) this.depth = 8;
    this.registers = [0, 2, 3, 4, 5, ...kept.filter((register) => register !== this.context)];

    this.emit(this.context ? `r${this.context} = r1` : `*(u64 *)(r10 - ${this.depth}) = r1`);
    for (const register of this.registers) if (register > 5 || this.below(2)) this.set(register);
    this.block(8 + this.below(24), 3);
    this.end();
  }

  private below(bound: number): number {
    return this.random() % bound;
  }
  private pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
  private emit(...lines: string[]): void {
    this.lines.push(...lines);
  }
  private label(): string {
    return `${this.name}_${this.labels++}`;
  }
  private set(register: number): void {
    this.emit(
      this.below(6) ? `r${register} = ${this.random() | 0}` : `r${register} = ${this.random()}${this.below(999)} ll`,
    );
    this.numbers.add(register);
  }
  /** A register that holds a number. */
  private number(): number {
    const held = [...this.numbers];
    if (held.length > 0) return this.pick(held);
    this.set(0);
    return 0;
  }
  private passContext(): void {
    this.emit(this.context ? `r1 = r${this.context}` : `r1 = *(u64 *)(r10 - ${this.depth})`);
    this.numbers.delete(1);
  }
  private called(): void {
    for (const register of [1, 2, 3, 4, 5]) this.numbers.delete(register);
    this.numbers.add(0);
  }
  /** A slot that is the program's to use, or 0. */
  private slot(): number {
    const most = this.depth - (this.context ? 0 : 8);
    if (most < 8) return 0;
    return this.below(4) ? 8 * (1 + this.below(most / 8)) : most;
  }

  private end(): void {
    if (this.below(3)) this.emit(`r0 = ${this.pick(verdicts)}`);
    else if (this.below(2)) this.emit(`r0 = r${this.number()}`, raw(0x97, 0, 0, 0, this.pick([2, 4, 9, 300])));
    else
      this.emit(`r0 = r${this.number()}`, "r0 &= 3", `w0 += -1`, ...(this.below(2) ? ["r0 <<= 32", "r0 s>>= 32"] : []));
    this.emit("exit");
  }

  /** So many steps; branches go no deeper than that. */
  private block(steps: number, nesting: number): void {
    for (let i = 0; i < steps; i++) this.step(nesting);
  }

  private step(nesting: number): void {
    const steps = [
      () => this.set(this.pick(this.registers)),
      () => this.compute(),
      () => this.compute(),
      () => this.readContext(),
      () => this.writeContext(),
      () => this.spill(),
      () => this.fill(),
      () => this.atomic(),
      () => this.packet(),
      () => this.copyBytes(),
      () => this.look(),
      () => this.call(),
      () => this.loop(),
      () => this.recent(),
      () => this.old(),
      () => nesting > 0 && this.branch(nesting),
      () => nesting > 0 && this.branch(nesting),
      () => nesting < 3 && this.leave(),
    ];
    this.pick(steps)();
  }

  private compute(): void {
    const dst = this.number();
    const by = this.below(2) ? `r${this.number()}` : `${this.random() | 0 || 1}`;
    const w = by.startsWith("r") && this.below(2);
    if (this.below(4) === 0)
      this.emit(`${this.pick(["r", "w"])}${dst} ${this.pick(["<<=", ">>=", "s>>="])} ${this.below(32)}`);
    else if (this.below(6) === 0)
      this.emit(this.pick([`r${dst} = -r${dst}`, `r${dst} = be16 r${dst}`, `r${dst} = be64 r${dst}`]));
    else if (w) this.emit(`w${dst} ${this.pick(arithmetic)} w${by.slice(1)}`);
    else this.emit(`r${dst} ${this.pick(arithmetic)} ${by}`);
  }
  private readContext(): void {
    const dst = this.pick(this.registers);
    this.passContext();
    this.emit(`r${dst} = *(u32 *)(r1 + ${this.pick(readable)})`);
    this.numbers.add(dst);
  }
  private writeContext(): void {
    this.passContext();
    this.emit(`*(u32 *)(r1 + ${this.pick(writable)}) = r${this.number()}`);
  }
  private spill(): void {
    const slot = this.slot();
    if (!slot) return;
    this.emit(`*(u64 *)(r10 - ${slot}) = r${this.number()}`);
    this.slots.add(slot);
  }
  private fill(): void {
    if (this.slots.size === 0) return;
    const dst = this.pick(this.registers);
    const slot = this.pick([...this.slots]);
    this.emit(this.pick([`r${dst} = *(u64 *)(r10 - ${slot})`, `r${dst} = *(u16 *)(r10 - ${slot - 2})`]));
    this.numbers.add(dst);
  }
  private atomic(): void {
    if (this.slots.size === 0) return;
    const slot = this.pick([...this.slots]);
    const [a, b] = [this.number(), this.number()];
    this.emit(
      this.pick([
        `lock *(u64 *)(r10 - ${slot}) += r${a}`,
        raw(0xdb, 10, a, -slot, 0xa1), // fetches, and xors
        raw(0xc3, 10, a, -slot, 0xe1), // exchanges 32 bits
      ]),
    );
    if (this.numbers.has(0)) this.emit(raw(0xdb, 10, b, -slot, 0xf1)); // and compares
  }
  private packet(): void {
    const skip = this.label();
    const at = this.below(furthest);
    const value = this.pick(this.registers.filter((register) => register > 5).concat(0));
    if (!this.numbers.has(value)) this.set(value);
    this.passContext();
    this.emit(
      "r2 = *(u32 *)(r1 + 76)",
      "r3 = *(u32 *)(r1 + 80)",
      "r4 = r2",
      `r4 += ${at + 1}`,
      `if r4 > r3 goto ${skip}`,
    );
    this.emit(`r5 = *(u8 *)(r2 + ${at})`, `r${value} += r5`);
    if (this.below(2)) this.emit(`*(u8 *)(r2 + ${at}) = r${value}`);
    this.emit(`${skip}:`);
    this.called();
    if (value !== 0) this.set(0);
  }
  private copyBytes(): void {
    const slot = this.slot();
    if (!slot) return;
    const stores = this.slots.has(slot);
    this.passContext();
    this.emit(`r2 = ${this.below(furthest)}`, "r3 = r10", `r3 += -${slot}`, `r4 = ${stores ? 1 + this.below(8) : 8}`);
    this.emit("r5 = 0", stores ? "call 9" : "call 26");
    this.slots.add(slot);
    this.called();
  }
  private look(): void {
    const slot = this.slot();
    if (!slot || !this.maps) return;
    const skip = this.label();
    const by = this.registers.find((register) => register > 5);
    this.emit(
      `r1 = ${this.below(5)}`,
      `*(u32 *)(r10 - ${slot}) = r1`,
      "r1 = slots ll",
      "r2 = r10",
      `r2 += -${slot}`,
      "call 1",
    );
    this.slots.delete(slot);
    this.emit(
      `if r0 == 0 goto ${skip}`,
      "r1 = *(u64 *)(r0 + 0)",
      by ? `r1 += r${by}` : "r1 += 3",
      "*(u64 *)(r0 + 0) = r1",
    );
    this.emit(`${skip}:`);
    this.called();
    this.set(0);
  }
  private call(): void {
    if (!this.calls) return;
    const slot = this.slot();
    if (slot && this.below(3) === 0) {
      // Never no times at all: Linux 6.18 removes such a callback, and then stumbles over its address ("No program to jit").
      this.emit(
        `r3 = ${this.below(9)}`,
        `*(u64 *)(r10 - ${slot}) = r3`,
        `r1 = ${1 + this.below(4)}`,
        "r2 = each ll",
        "r3 = r10",
      );
      this.emit(`r3 += -${slot}`, "r4 = 0", "call 181");
      this.slots.add(slot);
    } else if (this.below(2)) {
      const by = this.number();
      this.emit(`r2 = r${by}`);
      this.passContext();
      this.emit("call marks");
    } else {
      const [a, b] = [this.number(), this.number()];
      if (a !== 1) this.emit(`r1 = r${a}`);
      if (b !== 2) this.emit(`r2 = r${b}`);
      this.emit("call computes");
    }
    this.called();
  }
  private loop(): void {
    const counter = this.registers.find((register) => register > 5);
    if (!counter) return;
    const again = this.label();
    const sum = this.number();
    if (sum === counter) return;
    this.emit(`r${counter} = ${2 + this.below(4)}`, `${again}:`, `r${sum} += r${counter}`, `r${counter} += -1`);
    this.emit(`if r${counter} != 0 goto ${again}`);
  }
  /** Newer than the assembler: swapped bytes, sign extensions, remainders and signed division, far jumps, may_goto. */
  private recent(): void {
    const [a, b] = [this.number(), this.number()];
    this.emit(
      ...this.pick([
        [raw(0xd7, a, 0, 0, this.pick([16, 32, 64]))],
        [raw(0xbf, a, b, this.pick([8, 16, 32]), 0)],
        [raw(0x37, a, 0, 1, this.pick([-3, 7]))],
        [raw(0x9f, a, b, this.below(2), 0)],
        [raw(0x06, 0, 0, 0, 0)],
        [raw(0xe5, 0, 0, 1, 0), `r${a} += 1`],
      ]),
    );
  }
  /** A load that ends the program where the packet has ended. */
  private old(): void {
    if (this.context !== 6 || this.below(3)) return;
    const index = this.number();
    if (this.below(2)) this.emit(`r0 = *(u${this.pick([8, 16, 32])} *)skb[${this.below(furthest)}]`);
    else this.emit(`r${index} &= 63`, `r0 = *(u8 *)skb[r${index}]`);
    this.called();
  }
  private branch(nesting: number): void {
    const [other, join] = [this.label(), this.label()];
    const a = this.number();
    const b = this.below(2) ? `${this.below(2) ? this.below(100) : this.random() | 0}` : `r${this.number()}`;
    const w = b.startsWith("r") && this.below(2);
    this.emit(`if ${w ? "w" : "r"}${a} ${this.pick(comparisons)} ${w ? `w${b.slice(1)}` : b} goto ${other}`);
    const [numbers, slots] = [new Set(this.numbers), new Set(this.slots)];
    this.block(1 + this.below(4), nesting - 1);
    const leaves = this.below(3) === 0;
    if (leaves) this.end();
    else this.emit(`goto ${join}`);
    const [first, firstSlots] = [this.numbers, this.slots];
    this.numbers = numbers;
    this.slots = slots;
    this.emit(`${other}:`);
    this.block(1 + this.below(4), nesting - 1);
    this.emit(`${join}:`);
    if (leaves) return;
    this.numbers = both(this.numbers, first);
    this.slots = both(this.slots, firstSlots);
  }
  /** Out, sometimes. */
  private leave(): void {
    const stay = this.label();
    this.emit(`if r${this.number()} ${this.pick(comparisons)} ${this.below(50)} goto ${stay}`);
    this.end();
    this.emit(`${stay}:`);
  }
}

const map = `struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } slots SEC(".maps");`;

const naked = (declaration: string, lines: string[]): string =>
  `__attribute__((naked, used)) ${declaration} { asm volatile("${lines.join("\\n")}"); }\n`;

export interface Generated {
  /** One C file. */
  text: string;
  /** The functions in it that are programs, and how many bytes of stack they are made for. */
  entries: { name: string; stack: number }[];
}

/** `maps`: whether they use one, which takes BTF. */
export function generatePrograms(seed: number, count: number, maps: boolean): Generated {
  const random = numbers(seed);
  const entries: Generated["entries"] = [];
  const programs = Array.from({ length: count }, (_, i) => {
    const name = `generated_${i}`;
    const { lines, depth } = new Program(name, random, maps);
    entries.push({ name, stack: depth });
    return `SEC("tc") ${naked(`int ${name}(void)`, lines)}`;
  });
  const text = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "GPL";
${maps ? map : ""}
${naked("static int computes(void)", ["r6 = r1", "r6 *= r2", "*(u64 *)(r10 - 8) = r6", "r6 s>>= 3", "if r6 s> 9 goto +2", "r0 = r6", "exit", "r0 = *(u64 *)(r10 - 8)", "r0 &= 255", "exit"])}
${naked("static int marks(void)", ["r6 = *(u32 *)(r1 + 8)", "r6 += r2", "*(u32 *)(r1 + 8) = r6", "r0 = r6", "exit"])}
${naked("static long each(void)", ["r3 = *(u64 *)(r2 + 0)", "r3 *= 5", "r3 += r1", "*(u64 *)(r2 + 0) = r3", "r0 = 0", "exit"])}
${programs.join("")}`;
  return { text, entries };
}
