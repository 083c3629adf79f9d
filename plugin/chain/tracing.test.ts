// SPDX-License-Identifier: Apache-2.0
/** A trace in the fake kernel: what it leaves when it ends, fails, or dies at any operation. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { FakeKernel } from "../kernel/fake.ts";
import { directions } from "../kernel/port.ts";
import type { Selected } from "../model.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { collect } from "./collect.ts";
import { detach } from "./detach.ts";
import { bpffs, id, input, machine, netns, select } from "./fixture.ts";
import { EntryFailed } from "./generation.ts";
import { pinsOf } from "./pins.ts";
import { plan } from "./plan.ts";
import { readRecord } from "./record.ts";
import { replace } from "./replace.ts";
import { settle } from "./settle.ts";
import { type LiveTrace, startTrace } from "./tracing.ts";

const pins = pinsOf(bpffs, id);
const request = { directions: [...directions], sample: 3, bytes: 128, size: 4096 };

function attached(): { kernel: FakeKernel; selected: Selected[]; trace(): ReturnType<typeof startTrace> } {
  const kernel = machine();
  const ended = { name: "ended", type: "percpu_array", valueSize: 24 };
  const maps = [
    { name: "flows" },
    ended,
    { name: "count.rodata", internal: true },
    { name: "count.bss", internal: true },
  ];
  const wall = select(kernel, "wall", { directions: ["egress"], select: { at: "host" } });
  const selected = [select(kernel, "count", { maps, change: { endingMaps: ["ended"] } }), select(kernel, "acl"), wall];
  attach(kernel, plan(input(kernel, selected)));
  const again = ({ entries: [entry] }: { entries: { program: string }[] }): Selected =>
    selected.find(({ program }) => program.name === entry?.program) as Selected;
  return { kernel, selected, trace: () => startTrace(kernel, pins, again, request) };
}

async function fails(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing failed");
}

test("the same chain with its own maps and counters, reporting; and then the plain one again", async () => {
  const { kernel, trace } = attached();
  const before = kernel.left();
  const plain = kernel.chains("ingress");
  const live = await trace();
  assert.ok(live.active());
  for (const direction of directions) {
    const [chain] = kernel.chains(direction);
    assert.equal(
      chain?.map(({ name, position, trace }) => [name, position, trace?.sample, trace?.tag]),
      ["count", "acl"].map((name, position) => [name, position, 3, directions.indexOf(direction)]),
    );
    assert.equal(
      chain?.[0]?.reuse.map(({ name }) => name),
      ["flows", "ended", "count.bss"],
    );
    assert.equal(
      chain?.map(({ endings = [] }) => endings.length),
      [0, 1],
    );
  }
  assert.equal(
    kernel
      .chains("host")
      .map((chain) => chain.map(({ name, trace: reports }) => [name, reports?.sample, reports?.tag])),
    [[["wall", 3, 2]]],
  );
  check(kernel, bpffs, id, netns);
  assert.is(settle(kernel, pins), undefined);
  assert.equal(collect(kernel, bpffs).settled, []);
  assert.ok(live.active(), "who settles leaves a trace alone that somebody watches");
  assert.match((await fails(trace())).message, "somebody else is tracing");
  await live.end();
  assert.equal(kernel.left(), before);
  assert.equal(kernel.chains("ingress"), plain);
});

test("a DEL ends a trace", async () => {
  const { kernel, trace } = attached();
  const live = await trace();
  detach(kernel, bpffs, id);
  assert.not(live.active());
  await live.end();
  assert.equal(kernel.left(), []);
});

for (const [who, finish] of [
  ["who traced", (_: FakeKernel, live: LiveTrace) => live.end()],
  [
    "who settles next",
    async (kernel: FakeKernel, live: LiveTrace) => {
      assert.match(settle(kernel, pins) ?? "", "trace");
      await live.end();
    },
  ],
] as const)
  test(`a change ends a trace, and ${who} takes the rest away`, async () => {
    const { kernel, selected, trace } = attached();
    const live = await trace();
    const old = readRecord(kernel, pins);
    if (!old) throw new Error("no record");
    const changed = replace(kernel, plan(input(kernel, [...selected].reverse(), { generation: 2 })), old);
    assert.not.match(kernel.mistakes.join(), /./);
    assert.not.ok(live.active());
    const [chain] = kernel.chains("ingress");
    assert.equal(
      chain?.map(({ name, trace }) => [name, trace]),
      [
        ["acl", undefined],
        ["count", undefined],
      ],
    );
    await finish(kernel, live);
    assert.equal(readRecord(kernel, pins), changed);
    assert.equal(kernel.chains("ingress"), [chain]);
    assert.equal(
      kernel.files().filter((path) => path.includes("/trace")),
      [],
    );
    check(kernel, bpffs, id, netns);
    assert.is(kernel.openFds(), 0);
  });

test("whatever fails at the start, the plain chain is back and nothing is left; a program that does not load is named", async () => {
  const unloaded: string[] = [];
  for (let nth = 1; ; nth++) {
    const { kernel, trace } = attached();
    const before = kernel.left();
    const plain = kernel.chains("egress");
    const already = kernel.operations.length;
    kernel.failAt(nth);
    let live: Awaited<ReturnType<typeof startTrace>> | undefined;
    try {
      live = await trace();
    } catch (error) {
      if (error instanceof EntryFailed) unloaded.push(`${error.selected.program.name} ${error.direction}`);
    }
    const reached = kernel.operations.length - already >= nth;
    kernel.calm();
    await live?.end();
    settle(kernel, pins);
    assert.equal(kernel.chains("egress"), plain, `operation ${nth}`);
    assert.equal(kernel.left(), before, `operation ${nth}`);
    if (!reached) break;
    assert.ok(nth < 500);
  }
  assert.equal(unloaded, ["acl ingress", "count ingress", "acl egress", "count egress", "wall egress"]);
});

test("whoever dies while he traces leaves a whole chain, and who settles next takes the trace away", async () => {
  for (let nth = 1; ; nth++) {
    const { kernel, trace } = attached();
    const before = kernel.left();
    const plain = kernel.chains("egress");
    kernel.crashAt(nth);
    let started = false;
    try {
      await trace();
      started = true;
    } catch {}
    kernel.restart();
    for (const direction of directions) assert.is(kernel.chains(direction)[0]?.length, 2, `operation ${nth}`);
    const dry = collect(kernel, bpffs, { dryRun: true }).settled;
    const { settled } = collect(kernel, bpffs);
    assert.is(dry.length, settled.length);
    if (started) assert.match(settled[0]?.what ?? "", "trace");
    assert.equal(kernel.chains("egress"), plain, `operation ${nth}`);
    assert.equal(kernel.left(), before, `operation ${nth}`);
    if (started) break;
    assert.ok(nth < 500);
  }
});

test.run();
