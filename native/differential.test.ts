// SPDX-License-Identifier: Apache-2.0
/**
 * Whatever a program does by itself it does in a chain: the same packets through each of many programs, loaded plainly, as a
 * chain of its own, between two others, and as a function of its stage. Packets, fields and verdicts have to be the same, and
 * what the kernel takes plainly it has to take in a chain.
 */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { ethernet, ipv4, ipv6, other, tcp, udp, vlan } from "../bpf/packets.ts";
import { run, type Scratch, scratch } from "../e2e/lib/scratch.ts";
import { readParameters, setParameter } from "../plugin/catalog/parameters.ts";
import {
  counterLayout,
  type Fd,
  KernelError,
  type Stage,
  type StageRequest,
  type TestRunResult,
  traceLayout,
} from "../plugin/kernel/port.ts";
import { type Counted, counted, kernel, u32, verdict } from "./chain.ts";
import { generatePrograms } from "./generate.ts";

const root = resolve(import.meta.dirname, "..");
const vendor = join(root, "native/build/vendor");

interface Subject {
  what: string;
  path: string;
  entry: string;
  parameters: { name: string; bytes: Buffer }[];
}

const packets = [
  ethernet(ipv4({}, tcp({ destination: 443, flags: "S" }))),
  ethernet(ipv6({}, udp({ destination: 53 }))),
  ethernet(vlan(7, ipv4({ tos: 0x48 }, udp({ source: 53 })))),
  ethernet(other(0x88cc, Buffer.alloc(4))),
  ethernet(ipv4({ source: "192.0.2.9" }, tcp({ flags: "FA" }, Buffer.alloc(1200, "x")))),
];

type Outcome = Pick<TestRunResult, "verdict" | "context"> & { packet: string };

/** What each of the packets came to, one after the other. */
function outcomes(program: Fd): Outcome[] {
  return packets.map((packet, i) => {
    const context = { mark: 7 * i, priority: i, cb: [1, 2, 3, 4, 5] };
    const result = kernel.testRun({ program, packet, context });
    return { verdict: result.verdict, context: result.context, packet: result.packet.toString("hex") };
  });
}

/** Programs loaded by libbpf alone: descriptors, or why it could not be. */
function loadPlainly(world: Scratch, subjects: Subject[]): (Fd | string)[] {
  const loader = join(world.dir, "load-plainly");
  const libraries = ["bpf", "elf", "eu", "z"].map((name) => join(vendor, `lib/lib${name}.a`));
  const source = join(import.meta.dirname, "fixtures/load-plainly.c");
  run("gcc", "-Wall", "-Wextra", "-Werror", "-isystem", join(vendor, "include"), source, ...libraries, "-o", loader);
  const pin = (index: number): string => join(world.bpffs(), `plain_${index}`);
  const input = subjects
    .map(({ path, entry, parameters }, i) =>
      [path, entry, pin(i), ...parameters.map(({ name, bytes }) => `${name}=${bytes.toString("hex")}`)].join(" "),
    )
    .join("\n");
  const child = spawnSync(loader, { input: `${input}\n`, encoding: "utf8", timeout: 60_000 });
  assert.is(child.status, 0, child.stderr);
  const answers = child.stdout.trimEnd().split("\n");
  assert.is(answers.length, subjects.length);
  return answers.map((answer, i) => (answer === "ok" ? kernel.openPin(pin(i)).fd : answer));
}

/** Chains that differ in one program, which is loaded as their stage at a time. */
class Places implements Disposable {
  private readonly open: Fd[] = [];
  private readonly chain: Fd;
  private readonly counters: Fd;
  private readonly first: Fd;
  private readonly trace: NonNullable<StageRequest["trace"]>;

  constructor(world: Scratch) {
    const words = counterLayout.words * 8;
    const map = (
      ...[type, keySize, valueSize, maxEntries]: [
        "array" | "percpu_array" | "prog_array" | "ringbuf",
        number,
        number,
        number,
      ]
    ) => this.keep(kernel.createMap({ type, name: "places", keySize, valueSize, maxEntries }));
    this.chain = map("prog_array", 4, 4, 3);
    this.counters = map("percpu_array", 4, words, 3);
    const state = map("percpu_array", 4, traceLayout.event + traceLayout.header + 64, 1);
    this.trace = { events: map("ringbuf", 0, 0, 1 << 16), state, sample: 1, bytes: 64, tag: 0 };
    const neighbour = (value: number): string =>
      world.compile({
        text: `#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nSEC("tc") int neighbour(void *skb) { return ${value}; }`,
      });
    const load = (value: number, position: number): Fd => {
      const subject = { what: "neighbour", path: neighbour(value), entry: "neighbour", parameters: [] };
      const { program } = this.load(subject, position, 3);
      kernel.updateMap(this.chain, u32(position), u32(program));
      return this.keep(program);
    };
    this.first = load(verdict.unspec, 0);
    load(beyond, 2);
  }

  private keep(fd: Fd): Fd {
    this.open.push(fd);
    return fd;
  }

  private load({ path, entry, parameters }: Subject, position: number, length: number, trace = false): Stage {
    return kernel.loadStage({
      object: readFileSync(path),
      name: entry,
      entries: [{ function: entry, parameters }],
      position,
      length,
      proceedOn,
      failurePolicy: "closed",
      chain: this.chain,
      counters: this.counters,
      countHead: position === 0,
      reuse: [],
      ...(trace ? { trace: this.trace } : {}),
    });
  }

  alone(subject: Subject, how: { trace: boolean }): { placed: boolean; outcomes: Outcome[] } {
    const stage = this.load(subject, 0, 1, how.trace);
    try {
      return { placed: stage.placed, outcomes: outcomes(stage.program) };
    } finally {
      close(stage);
    }
  }

  /**
   * Between one that lets everything pass and one that tells with its verdict that it was reached. With how many packets, and
   * bytes of them, the counters say that the program has ended.
   */
  between(subject: Subject): { outcomes: Outcome[]; packets: number; bytes: number } {
    const stage = this.load(subject, 1, 3);
    try {
      kernel.updateMap(this.chain, u32(1), u32(stage.program));
      const before = counted(this.counters, 1);
      const all = outcomes(this.first);
      const after = counted(this.counters, 1);
      const packets = (row: Counted): number => Object.values(row.endings).reduce((sum, count) => sum + count, 0);
      return { outcomes: all, packets: packets(after) - packets(before), bytes: after.endedBytes - before.endedBytes };
    } finally {
      close(stage);
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.open) kernel.close(fd);
  }
}

function close(stage: Stage): void {
  for (const fd of [stage.program, ...stage.maps.map((map) => map.fd)]) kernel.close(fd);
}

const proceedOn: number[] = [verdict.unspec, verdict.ok, verdict.pipe];
const goesOn = (value: number): boolean => proceedOn.includes(value);
/** A verdict that no program here returns. */
const beyond = 77;

/** What a chain makes of a program's own verdicts. */
function judged(plain: Outcome[], proceeded: number): Outcome[] {
  return plain.map((outcome) => ({
    ...outcome,
    verdict: goesOn(outcome.verdict) ? proceeded : outcome.verdict,
  }));
}

interface Seen {
  /** Programs that the kernel took plainly; those of them that belonged to their stage. */
  taken: number;
  placed: number;
  /** What it did not take plainly, and why. */
  refused: string[];
  /** What is refused in a chain because functions that call each other share 512 bytes of stack. */
  tooDeep: string[];
  tooDeepAsFunction: string[];
  /** Verdicts seen, and packets that were changed. */
  verdicts: Set<number>;
  changed: number;
}

/** What it returns; nothing where the stack was too small, which is noted. */
function unlessTooDeep<T>(what: string, noted: string[], load: () => T): T | undefined {
  try {
    return load();
  } catch (error) {
    if (!(error instanceof KernelError) || !/combined stack size of \d calls/.test(error.message)) throw error;
    if (!noted.includes(what)) noted.push(what);
    return undefined;
  }
}

/** Runs each of them in each way. */
function compare(world: Scratch, subjects: Subject[]): Seen {
  const plainly = loadPlainly(world, subjects);
  using places = new Places(world);
  const seen: Seen = {
    taken: 0,
    placed: 0,
    refused: [],
    tooDeep: [],
    tooDeepAsFunction: [],
    verdicts: new Set(),
    changed: 0,
  };
  for (const [i, subject] of subjects.entries()) {
    const plain = plainly[i] as Fd | string;
    if (typeof plain === "string") {
      seen.refused.push(`${subject.what}: ${plain}`);
      continue;
    }
    const expected = outcomes(plain);
    kernel.close(plain);
    seen.taken++;
    for (const [i, outcome] of expected.entries()) {
      seen.verdicts.add(outcome.verdict);
      if (outcome.packet !== packets[i]?.toString("hex")) seen.changed++;
    }
    const alone = unlessTooDeep(subject.what, seen.tooDeep, () => places.alone(subject, { trace: false }));
    if (alone?.placed) seen.placed++;
    if (alone) assert.equal(alone.outcomes, judged(expected, verdict.unspec), `${subject.what}, alone`);
    const between = unlessTooDeep(subject.what, seen.tooDeep, () => places.between(subject));
    if (between) {
      const ended = expected.filter(({ verdict }) => !goesOn(verdict));
      assert.equal(between.outcomes, judged(expected, beyond), `${subject.what}, between two others`);
      assert.is(between.packets, ended.length, `${subject.what}, packets counted`);
      assert.is(
        between.bytes,
        ended.reduce((sum, { packet }) => sum + packet.length / 2, 0),
        `${subject.what}, bytes`,
      );
    }
    const traced = unlessTooDeep(subject.what, seen.tooDeepAsFunction, () => places.alone(subject, { trace: true }));
    if (traced) assert.equal(traced.outcomes, judged(expected, verdict.unspec), `${subject.what}, as a function`);
  }
  return seen;
}

/** Another seed in the environment tries others, and any number of them. */
const seed = Number(process.env.SEED ?? 1);
const count = Number(process.env.COUNT ?? 40);

for (const [how, flags] of [
  ["", []],
  [", without BTF", ["-g0"]],
] as const)
  test(`programs made up at random (seed ${seed})${how}`, () => {
    using world = scratch();
    const { text, entries } = generatePrograms(seed, count, flags.length === 0);
    const path = world.compile({ text }, { flags: [...flags] });
    const seen = compare(
      world,
      entries.map(({ name }) => ({ what: name, path, entry: name, parameters: [] })),
    );
    assert.ok(seen.taken > count / 2, `taken as they are: ${seen.taken}, but not ${seen.refused.join(", ")}`);
    assert.ok(seen.placed > seen.taken / 2, `${seen.placed} in place`);
    assert.ok(seen.verdicts.size > 5 && seen.changed > count / 2, "too much alike to tell anything");
    // A function's caller needs some stack of its own, and so does what waits beneath a program's.
    for (const name of [...seen.tooDeep, ...seen.tooDeepAsFunction])
      assert.ok((entries.find((entry) => entry.name === name)?.stack ?? 0) >= 480, `${name} is refused in a chain`);
  });

/** Every TC program of an object. */
function subjectsOf(path: string, parameters: Record<string, string> = {}): Subject[] {
  const info = kernel.inspectObject(readFileSync(path));
  const known = readParameters(path, info);
  const set = Object.entries(parameters).flatMap(([name, text]) => setParameter(known, name, text).bytes);
  return info.programs
    .filter(({ type, inner }) => type === "sched_cls" && !inner)
    .map(({ name }) => ({
      what: [basename(path), name, ...Object.entries(parameters).flat()].join(" "),
      path,
      entry: name,
      parameters: set,
    }));
}

test("the shapes of programs that others wrote", () => {
  using world = scratch();
  const fixtures = readdirSync(join(import.meta.dirname, "fixtures")).filter((name) => name.endsWith(".bpf.c"));
  const subjects = fixtures.flatMap((name) => subjectsOf(world.compile(join(import.meta.dirname, "fixtures", name))));
  const { refused, taken, placed, tooDeep, tooDeepAsFunction } = compare(world, subjects);
  // What asks for fields that no kernel has, and what needs more of its loader than a plain one does: other programs in its
  // slots, sizes of maps.
  assert.equal(
    refused.map((text) => text.replace(/.*\.bpf\.o (\w+):.*/, "$1")),
    ["trusting", "parse", "account", "aggregate", "samples_alone"],
  );
  assert.equal([...tooDeep, ...tooDeepAsFunction], []);
  assert.ok(placed > taken / 2, `${placed} of ${taken} in place`);
});

test("the library", () => {
  const given: Record<string, Record<string, string>[]> = {
    acl: [
      { rules: "deny udp; allow tcp 443", default_action: "deny" },
      { rules: "allow tcp; deny any", deny_list: "true" },
    ],
    "conn-limit": [{ max: "1" }, { new_per_second: "1", burst: "1", max_per_remote: "1" }],
    "dns-log": [{ port: "53" }],
    fault: [{ rules: "deny udp" }],
    guard: [{ addresses: "10.0.0.1", also_allow: "192.0.2.0/24", mac: "02:00:00:00:00:01" }, { vlan: "check" }],
    "mark-dscp": [{ dscp: "EF", mark: "0x100", mark_mask: "0xf00", priority: "6" }, { rules: "CS6 icmpv6; AF41 tcp" }],
    mirror: [{ collector: "192.0.2.9", source_ipv4: "10.0.0.1", source_ipv6: "2001:db8::1" }],
    "rate-limit": [
      { rate: "8bit", burst: "1100" },
      { packet_rate: "1", packet_burst: "3" },
    ],
  };
  using world = scratch();
  const folder = join(root, "dist/programs");
  const objects = readdirSync(folder).filter((name) => name.endsWith(".bpf.o"));
  const subjects = objects.flatMap((name) =>
    [{}, ...(given[basename(name, ".bpf.o")] ?? [])].flatMap((parameters) =>
      subjectsOf(join(folder, name), parameters),
    ),
  );
  const { taken, placed, changed } = compare(world, subjects);
  assert.equal({ taken, placed }, { taken: subjects.length, placed: subjects.length });
  assert.ok(changed > 0, "no packet was changed");
});

test.run();
