// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { traceKinds, traceLayout } from "../kernel/port.ts";
import { type Chains, describeWay, isDropped, type Journey, Journeys } from "./journey.ts";

const chain = ["count", "mark", "guard"].map((program) => ({ program, proceedOn: [-1, 0, 3] }));
const chains: Chains = [
  { direction: "ingress", at: "pod", stages: chain },
  { direction: "egress", at: "pod", stages: chain.slice(0, 1) },
  { direction: "egress", at: "host", stages: chain.slice(2) },
];

interface Sketch {
  packet: number;
  kind: (typeof traceKinds)[number];
  position?: number;
  verdict?: number;
  cpu?: number;
  tag?: number;
  length?: number;
  time?: number;
  bytes?: Buffer;
}
function event({
  packet,
  kind,
  position = 0,
  verdict = 0,
  cpu = 0,
  tag = 0,
  length = 60,
  time = 0,
  bytes,
}: Sketch): Buffer {
  const head = Buffer.alloc(traceLayout.header);
  head.writeBigUInt64LE(BigInt(packet), traceLayout.packet);
  head.writeBigUInt64LE(BigInt(time), traceLayout.time);
  head.writeUInt32LE(cpu, traceLayout.cpu);
  head.writeUInt16LE(position, traceLayout.position);
  head.writeUInt8(traceKinds.indexOf(kind), traceLayout.kind);
  head.writeUInt8(tag, traceLayout.tag);
  head.writeInt32LE(verdict, traceLayout.verdict);
  head.writeUInt32LE(length, traceLayout.length);
  head.writeUInt32LE(bytes?.length ?? 0, traceLayout.captured);
  return Buffer.concat([head, bytes ?? Buffer.alloc(0)]);
}
const arrived = (packet: number, more: Partial<Sketch> = {}): Buffer => event({ packet, kind: "arrived", ...more });
const returned = (packet: number, position: number, verdict: number, more: Partial<Sketch> = {}): Buffer =>
  event({ packet, kind: "returned", position, verdict, ...more });

function run(events: Buffer[]): { done: Journey[]; incomplete: number } {
  const journeys = new Journeys(chains);
  const done = events.map((each) => journeys.add(each)).filter((each) => each !== undefined);
  return { done, incomplete: journeys.incomplete };
}

const ways: [string, Buffer[], string, boolean][] = [
  [
    "through the whole chain",
    [arrived(1), returned(1, 0, 0), returned(1, 1, 3), returned(1, 2, -1)],
    "count OK > mark PIPE > guard UNSPEC: passed the whole chain",
    false,
  ],
  ["dropped", [arrived(1), returned(1, 0, 0), returned(1, 1, 2)], "count OK > mark SHOT: dropped by mark (SHOT)", true],
  ["redirected", [arrived(1), returned(1, 0, 7)], "count REDIRECT: redirected by count (REDIRECT)", false],
  ["another number", [arrived(1), returned(1, 0, 99)], "count 99: chain ended by count (99)", false],
  [
    "broken and dropped",
    [arrived(1), returned(1, 0, 0), event({ packet: 1, kind: "broken", verdict: 2 })],
    "count OK: the chain could not go on; dropped by its failure policy",
    true,
  ],
  [
    "broken and passed",
    [arrived(1), returned(1, 0, 0), event({ packet: 1, kind: "broken", verdict: -1 })],
    "count OK: the chain could not go on; passed by its failure policy",
    false,
  ],
  [
    "a packet that became longer",
    [arrived(1), returned(1, 0, 0, { length: 80 }), returned(1, 1, 2, { length: 80 })],
    "count OK (80 bytes) > mark SHOT: dropped by mark (SHOT)",
    true,
  ],
  [
    "a chain of one",
    [arrived(1, { tag: 1 }), returned(1, 0, -1, { tag: 1 })],
    "count UNSPEC: passed the whole chain",
    false,
  ],
];
for (const [what, events, words, dropped] of ways)
  test(what, () => {
    const { done, incomplete } = run(events);
    assert.equal(done.map(describeWay), [words]);
    assert.equal(done.map(isDropped), [dropped]);
    assert.is(incomplete, 0);
  });

test("a packet's first bytes, time, direction and length are those of its arrival", () => {
  const bytes = Buffer.from("c0ffee", "hex");
  const { done } = run([
    arrived(9, { time: 5, tag: 1, length: 1500, bytes }),
    returned(9, 0, 0, { tag: 1, time: 7, length: 10 }),
  ]);
  const [{ time, direction, length, bytes: kept } = {} as Journey] = done;
  assert.equal([time, direction, length, kept], [5n, "egress", 1500, bytes]);
});

test("what passes the pod's chain and is dropped at the host's end is two ways", () => {
  const { done } = run([
    arrived(1, { tag: 1 }),
    returned(1, 0, 0, { tag: 1 }),
    arrived(1, { tag: 2 }),
    returned(1, 0, 2, { tag: 2 }),
  ]);
  assert.equal(
    done.map(({ direction, at, hops, end }) => [direction, at, hops[0]?.program, end.how]),
    [
      ["egress", "pod", "count", "passed"],
      ["egress", "host", "guard", "shot"],
    ],
  );
});

test("packets on several CPUs, and one that a program sends on another's way", () => {
  const { done, incomplete } = run([
    arrived(1, { cpu: 0 }),
    arrived(1, { cpu: 1, tag: 1 }),
    returned(1, 0, 0, { cpu: 0 }),
    arrived(2, { cpu: 0, tag: 1 }),
    returned(2, 0, 2, { cpu: 0, tag: 1 }),
    returned(1, 0, 0, { cpu: 1, tag: 1 }),
    returned(1, 1, 2, { cpu: 0 }),
  ]);
  assert.equal(
    done.map(({ direction, end }) => [direction, end.how]),
    [
      ["egress", "shot"],
      ["egress", "passed"],
      ["ingress", "shot"],
    ],
  );
  assert.is(incomplete, 0);
});

const lost: [string, Buffer[], number][] = [
  ["its arrival", [returned(1, 0, 2)], 1],
  ["a program in the middle", [arrived(1), returned(1, 0, 0), returned(1, 2, 0)], 1],
  ["the end of a packet that another sent", [arrived(1), arrived(2, { tag: 1 }), returned(1, 0, 2)], 1],
];
for (const [what, events, incomplete] of lost)
  test(`lost: ${what}`, () => {
    assert.is(run(events).incomplete, incomplete);
  });

test("what never ends is given up", () => {
  const journeys = new Journeys(chains);
  journeys.add(arrived(1, { time: 10 }));
  journeys.add(arrived(2, { time: 30, cpu: 1 }));
  journeys.forget(20n);
  assert.is(journeys.incomplete, 1);
  assert.is(journeys.add(returned(2, 0, 2, { cpu: 1 }))?.end.how, "shot");
});

test.run();
