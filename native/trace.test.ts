// SPDX-License-Identifier: Apache-2.0
/** Chains that report each packet on its way: the events, the sample, and that verdicts stay. On this machine's kernel. */
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Scratch, scratch } from "../e2e/lib/scratch.ts";
import {
  type EventReader,
  type Fd,
  type Stage,
  type StageTrace,
  traceKinds,
  traceLayout,
} from "../plugin/kernel/port.ts";
import { Chain, fixture, kernel, type Member, u32, verdict } from "./chain.ts";

class Ring implements Disposable {
  readonly events: Fd;
  readonly state: Fd;
  readonly reader: EventReader;
  readonly bytes: number;

  constructor(bytes = 64, size = 1 << 20) {
    this.bytes = bytes;
    const spec = { keySize: 0, valueSize: 0 };
    this.events = kernel.createMap({ type: "ringbuf", name: "remora_events", ...spec, maxEntries: size });
    this.state = kernel.createMap({
      type: "percpu_array",
      name: "remora_trace",
      keySize: 4,
      valueSize: traceLayout.event + traceLayout.header + bytes,
      maxEntries: 1,
    });
    this.reader = kernel.openEvents(this.events);
  }

  trace(change: Partial<StageTrace> = {}): StageTrace {
    return { events: this.events, state: this.state, sample: 1, bytes: this.bytes, tag: 0, ...change };
  }

  take() {
    return kernel.readEvents(this.reader, 10_000).map((event) => ({
      packet: event.readBigUInt64LE(traceLayout.packet),
      time: event.readBigUInt64LE(traceLayout.time),
      kind: traceKinds[event.readUInt8(traceLayout.kind)],
      position: event.readUInt16LE(traceLayout.position),
      tag: event.readUInt8(traceLayout.tag),
      verdict: event.readInt32LE(traceLayout.verdict),
      length: event.readUInt32LE(traceLayout.length),
      mark: event.readUInt32LE(traceLayout.mark),
      captured: event.readUInt32LE(traceLayout.captured),
      bytes: event.subarray(traceLayout.header),
    }));
  }

  lost(): bigint {
    const value = kernel.lookupMap(this.state, u32(0)) as Buffer;
    let lost = 0n;
    const step = Math.ceil((traceLayout.event + traceLayout.header + this.bytes) / 8) * 8;
    for (let at = traceLayout.lost; at < value.length; at += step) lost += value.readBigUInt64LE(at);
    return lost;
  }

  [Symbol.dispose](): void {
    kernel.closeEvents(this.reader);
    kernel.close(this.events);
    kernel.close(this.state);
  }
}

function members(object: Buffer, verdicts: number[], more: Partial<Member>): Member[] {
  return verdicts.map((value, i) => ({
    object,
    entry: "give_verdict",
    parameters: { id: u32(i + 1), verdict: u32(value) },
    ...more,
  }));
}

test("a packet is told on arrival, with its bytes, and after each program, with the verdict", () => {
  using world = scratch();
  using ring = new Ring();
  const object = fixture(world, "verdict");
  using chain = new Chain(
    members(object, [verdict.ok, verdict.pipe, verdict.shot, verdict.ok], { trace: ring.trace({ tag: 7 }) }),
  );
  const packet = Buffer.from(Array.from({ length: 100 }, (_, i) => i));
  assert.equal(chain.run(packet), { verdict: verdict.shot, mark: 123 });
  const events = ring.take();
  assert.equal(
    events.map(({ kind, position, verdict, length, mark, captured, tag }) => [
      kind,
      position,
      verdict,
      length,
      mark,
      captured,
      tag,
    ]),
    [
      ["arrived", 0, 0, 100, 0, 64, 7],
      ["returned", 0, verdict.ok, 100, 1, 0, 7],
      ["returned", 1, verdict.pipe, 100, 12, 0, 7],
      ["returned", 2, verdict.shot, 100, 123, 0, 7],
    ],
  );
  assert.equal(events[0]?.bytes, packet.subarray(0, 64));
  assert.is(new Set(events.map(({ packet }) => packet)).size, 1);
  for (const [i, { time }] of events.entries()) assert.ok(time >= (events[i - 1]?.time ?? 1n));
  assert.equal(ring.take(), []);
  assert.is(ring.lost(), 0n);
});

test("every way through a chain has the same verdict, mark and counters with tracing as without", () => {
  using world = scratch();
  using ring = new Ring();
  const object = fixture(world, "verdict");
  for (const value of [-2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x7fffffff]) {
    for (const more of [{}, { proceedOn: [verdict.shot] }, { proceedOn: [] }]) {
      using plain = new Chain(members(object, [verdict.ok, value, verdict.ok], more));
      using traced = new Chain(members(object, [verdict.ok, value, verdict.ok], { ...more, trace: ring.trace() }));
      assert.equal(traced.run(), plain.run());
      for (const position of [0, 1, 2]) assert.equal(traced.counted(position), plain.counted(position));
    }
  }
});

test("a tail call to a position that is gone is told", () => {
  using world = scratch();
  using ring = new Ring();
  const object = fixture(world, "verdict");
  for (const [failurePolicy, value] of [
    ["closed", verdict.shot],
    ["open", -1],
  ] as const) {
    using chain = new Chain(members(object, [0, 0, 0], { failurePolicy, trace: ring.trace() }), [2]);
    assert.equal(chain.run(), { verdict: value, mark: 12 });
    assert.equal(
      ring.take().map(({ kind, position, verdict }) => [kind, position, verdict]),
      [
        ["arrived", 0, 0],
        ["returned", 0, 0],
        ["returned", 1, 0],
        ["broken", 1, value],
      ],
    );
    assert.equal(chain.counted(1).endings, { broken: 1 });
  }
});

test("one packet in so many", () => {
  using world = scratch();
  using ring = new Ring();
  const object = fixture(world, "verdict");
  using chain = new Chain(members(object, [0, 0], { trace: ring.trace({ sample: 10 }) }));
  const { program } = chain.stages[0] as Stage;
  for (let i = 0; i < 10; i++) kernel.testRun({ program, packet: Buffer.alloc(64), repeat: 100 });
  const events = ring.take();
  // The count is each CPU's own, and a run may move between them.
  const arrived = events.filter(({ kind }) => kind === "arrived").length;
  assert.ok(arrived >= 95 && arrived <= 100, `${arrived}`);
  assert.is(events.length, arrived * 3);
});

test("what the ring buffer has no room for is counted, and the packet goes on", () => {
  using world = scratch();
  using ring = new Ring(64, 4096);
  const object = fixture(world, "verdict");
  using chain = new Chain(members(object, [0, verdict.shot], { trace: ring.trace() }));
  for (let i = 0; i < 100; i++) assert.is(chain.run().verdict, verdict.shot);
  const events = ring.take();
  assert.ok(events.length > 0 && events.length < 300);
  assert.is(BigInt(events.length) + ring.lost(), 300n);
});

test("short and long packets", () => {
  using world = scratch();
  using ring = new Ring(1500);
  const object = fixture(world, "verdict");
  using chain = new Chain(members(object, [0], { trace: ring.trace() }));
  for (const length of [14, 60, 1500, 3000]) {
    chain.run(Buffer.alloc(length, 1));
    const [arrived] = ring.take();
    assert.is(arrived?.length, length);
    assert.is(arrived?.bytes.length, Math.min(1500, length));
  }
});

const shapes: [string, string][] = [
  ["with almost all of the stack", `volatile char room[440] = {}; return room[skb->len & 255];`],
  ["that is not GPL", `return 0;`],
];
for (const [what, body] of shapes)
  test(`a program ${what} is traced`, () => {
    using world = scratch();
    using ring = new Ring();
    const text = `#include <linux/bpf.h>
      #include <bpf/bpf_helpers.h>
      SEC("tc") int shape(struct __sk_buff *skb) { ${body} }
      char _license[] SEC("license") = "Proprietary";`;
    using chain = new Chain([{ object: compiled(world, text), entry: "shape", trace: ring.trace() }]);
    assert.is(chain.run().verdict, -1);
    assert.is(ring.take().length, 2);
  });

test("32 positions are traced", () => {
  using world = scratch();
  using ring = new Ring();
  const object = fixture(world, "verdict");
  const all = Array.from({ length: 32 }, () => verdict.ok as number);
  using chain = new Chain(members(object, all, { parameters: { id: u32(0) }, trace: ring.trace() }));
  assert.is(chain.run().verdict, -1);
  assert.is(ring.take().length, 33);
});

function compiled(world: Scratch, text: string): Buffer {
  return readFileSync(world.compile({ text }));
}

test.run();
