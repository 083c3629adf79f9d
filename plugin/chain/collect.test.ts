// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { FakeKernel } from "../kernel/fake.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { collect, collectNetwork } from "./collect.ts";
import { detach } from "./detach.ts";
import { bpffs, id, input, machine, netns, select } from "./fixture.ts";
import { pinsOf } from "./pins.ts";
import { type ChainPlan, plan } from "./plan.ts";
import { settle } from "./settle.ts";
import { listAttachments } from "./status.ts";

const planFor = (kernel: FakeKernel, containerId: string, network = id.network): ChainPlan =>
  plan(input(kernel, [select(kernel, "p")], { id: { network, containerId, ifname: "eth0" } }));
const containers = ({ removed }: { removed: { containerId: string }[] }) => removed.map((one) => one.containerId);

test("GC removes what is not valid, of its own network only", async () => {
  const kernel = machine();
  for (const containerId of ["keep.1", "dead", "x".repeat(300)]) attach(kernel, planFor(kernel, containerId));
  attach(kernel, planFor(kernel, "dead", "other"));
  const collected = await collectNetwork(kernel, bpffs, id.network, [{ containerId: "keep.1", ifname: "eth0" }]);
  assert.equal(containers(collected), ["dead", "x".repeat(300)]);
  assert.equal(collected.failed, []);
  check(kernel, bpffs, { ...id, containerId: "keep.1" }, netns);
  check(kernel, bpffs, { ...id, network: "other", containerId: "dead" }, netns);
  assert.is((await collectNetwork(kernel, bpffs, "other", [])).removed.length, 1);
  assert.is((await collectNetwork(kernel, bpffs, id.network, [])).removed.length, 1);
  assert.equal(kernel.left(), []);
});

test("GC of the same container's other interface", async () => {
  const kernel = machine();
  attach(kernel, planFor(kernel, "c"));
  assert.is(
    (await collectNetwork(kernel, bpffs, id.network, [{ containerId: "c", ifname: "eth1" }])).removed.length,
    1,
  );
});

test("GC goes on over errors, and tells them", async () => {
  const kernel = machine();
  for (const containerId of ["a", "b", "c"]) attach(kernel, planFor(kernel, containerId));
  const broken = pinsOf(bpffs, { ...id, containerId: "b" }).record;
  kernel.interfere = (operation) => {
    if (operation === `removePin ${broken}`) kernel.failAt(0, "EIO");
  };
  const collected = await collectNetwork(kernel, bpffs, id.network, []);
  kernel.interfere = undefined;
  assert.equal(containers(collected), ["a", "c"]);
  assert.equal(
    collected.failed.map((one) => one.containerId),
    ["b"],
  );
  assert.equal(containers(await collectNetwork(kernel, bpffs, id.network, [])), ["b"]);
  assert.equal(kernel.left(), []);
});

test("what is not ours stays", async () => {
  const kernel = machine();
  attach(kernel, planFor(kernel, "mine"));
  const foreign = "/sys/fs/bpf/remora/podnet/theirs:eth0";
  kernel.makeDirectory(foreign);
  kernel.makeDirectory(`${foreign}/globals`);
  kernel.makeDirectory("/sys/fs/bpf/remora/podnet/tc");
  kernel.clock += 10 ** 9;
  assert.equal(containers(await collectNetwork(kernel, bpffs, id.network, [])), ["mine"]);
  assert.equal(containers(collect(kernel, bpffs, { now: kernel.clock })), []);
  assert.equal(kernel.files(), [
    "/sys/fs/bpf/remora",
    "/sys/fs/bpf/remora/podnet",
    "/sys/fs/bpf/remora/podnet/tc",
    foreign,
    `${foreign}/globals`,
  ]);
});

test("the node's own collection leaves the living, and takes those whose namespace is gone", () => {
  const kernel = machine();
  kernel.namespace("/run/netns/dying");
  attach(kernel, planFor(kernel, "living"));
  const dying = planFor(kernel, "dying");
  attach(kernel, {
    ...dying,
    netns: "/run/netns/dying",
    interface: kernel.findInterface("/run/netns/dying", "eth0"),
  });
  const now = kernel.clock;
  assert.equal(collect(kernel, bpffs, { now }).removed, []);
  kernel.removeNamespace("/run/netns/dying");
  const { removed } = collect(kernel, bpffs, { now });
  assert.equal(removed, [
    { network: id.network, containerId: "dying", ifname: "eth0", reason: "its interface is gone" },
  ]);
  check(kernel, bpffs, { ...id, containerId: "living" }, netns);
});

test("an attachment without programs goes with its namespace", () => {
  const kernel = machine();
  attach(kernel, plan(input(kernel, [], { missing: [{ program: "x", reason: "y" }] })));
  kernel.clock += 10 ** 9;
  assert.equal(collect(kernel, bpffs, { now: kernel.clock }).removed, []);
  kernel.removeNamespace(netns);
  kernel.namespace(netns);
  assert.is(collect(kernel, bpffs, { now: kernel.clock }).removed[0]?.reason, "its network namespace is gone");
  assert.equal(kernel.left(), []);
});

/** How many operations something takes. */
function operationsOf(prepare: (kernel: FakeKernel) => void, act: (kernel: FakeKernel) => void): number {
  const kernel = machine();
  prepare(kernel);
  const before = kernel.operations.length;
  act(kernel);
  return kernel.operations.length - before;
}
/** A node where something was killed at its nth operation. */
function killedAt(nth: number, prepare: (kernel: FakeKernel) => void, act: (kernel: FakeKernel) => void) {
  const kernel = machine();
  prepare(kernel);
  kernel.crashAt(nth);
  try {
    act(kernel);
  } catch {}
  const operation = `${nth}: ${kernel.operations.at(-1)}`;
  assert.ok(kernel.dead, operation);
  kernel.restart();
  return { kernel, operation };
}
const linked = (kernel: FakeKernel): number =>
  (["ingress", "egress", "host"] as const).reduce((sum, place) => sum + kernel.chains(place).length, 0);
const folders = (kernel: FakeKernel): string[] => kernel.files().filter((path) => path.includes(":"));
const container = { ...id, containerId: "c" };
/** Three links: both directions in the pod, and one at the host's end. */
const addThree = (kernel: FakeKernel): void => {
  const wall = select(kernel, "wall", { directions: ["egress"], select: { at: "host" } });
  attach(kernel, plan(input(kernel, [select(kernel, "p"), wall], { id: container })));
};
const del = (kernel: FakeKernel): void => void detach(kernel, bpffs, container);
const nothing = (): void => {};

for (const [verb, prepare, act] of [
  ["an ADD", nothing, addThree],
  ["a second ADD", addThree, addThree],
  ["a DEL", addThree, del],
] as const)
  test(`${verb} killed at whichever operation: gc alone leaves the whole or nothing`, () => {
    const seen = new Set<string>();
    const operations = operationsOf(prepare, act);
    for (let nth = 1; nth <= operations; nth++) {
      const { kernel, operation } = killedAt(nth, prepare, act);
      const before = linked(kernel);
      const young = collect(kernel, bpffs, { now: kernel.clock, graceSeconds: 60 });
      assert.equal(young.failed, [], operation);
      const after = linked(kernel);
      if (after > 0) {
        assert.is(after, 3, operation);
        assert.is(check(kernel, bpffs, container, netns)?.generation, 1, operation);
        assert.equal(
          kernel.chains("host")[0]?.map(({ name }) => name),
          ["wall"],
          operation,
        );
      }
      seen.add(`${before} -> ${after}`);
      // What was not attached may be an ADD that has just begun; later it goes as well.
      const old = collect(kernel, bpffs, { now: kernel.clock + 60_000, graceSeconds: 60 });
      assert.equal(old.failed, [], operation);
      if (after === 0) assert.equal(folders(kernel), [], operation);
      assert.equal(collect(kernel, bpffs, { now: kernel.clock + 60_000, graceSeconds: 60 }), {
        settled: [],
        removed: [],
        failed: [],
      });
      del(kernel);
      assert.equal(kernel.left(), [], operation);
    }
    const [forward, back] = [
      ["1 -> 3", "2 -> 3", "3 -> 3"],
      ["1 -> 0", "2 -> 0", "3 -> 0"],
    ];
    const expected = { "an ADD": forward, "a second ADD": [...forward, ...back], "a DEL": back }[verb];
    for (const way of expected) assert.ok(seen.has(way), `${way} was not among ${[...seen].join(", ")}`);
  });

test("a collection killed while it finishes an ADD or a DEL is finished by the next", () => {
  for (const [prepare, act] of [
    [nothing, addThree],
    [addThree, del],
  ] as const)
    for (let nth = 1; nth <= operationsOf(prepare, act); nth++)
      for (let second = 1; ; second++) {
        const { kernel, operation } = killedAt(nth, prepare, act);
        if (![1, 2].includes(linked(kernel))) break;
        kernel.crashAt(second);
        try {
          collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock });
        } catch {}
        const done = !kernel.dead;
        kernel.restart();
        collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock });
        assert.ok([0, 3].includes(linked(kernel)), operation);
        if (linked(kernel) > 0) check(kernel, bpffs, container, netns);
        else assert.equal(folders(kernel), [], operation);
        del(kernel);
        assert.equal(kernel.left(), [], `${operation}, then ${second}`);
        if (done) break;
      }
});

/** An ADD that died between its first link and its second. */
function halfAdded(): FakeKernel {
  for (let nth = 1; ; nth++) {
    const { kernel } = killedAt(nth, nothing, addThree);
    if (linked(kernel) === 1) return kernel;
  }
}

test("an ADD that cannot be finished is taken back", () => {
  const kernel = halfAdded();
  kernel.withoutPeers = "macvlan";
  const dry = collect(kernel, bpffs, { now: kernel.clock, dryRun: true });
  assert.equal(dry.settled, [{ ...container, what: "an ADD was interrupted" }]);
  const { settled, removed, failed } = collect(kernel, bpffs, { now: kernel.clock });
  assert.equal([settled, failed], [[], []]);
  assert.match(removed[0]?.reason ?? "", /^an interrupted ADD was taken back: .*macvlan/);
  assert.equal(kernel.left(), []);
});

test("an ADD at work between its links is left alone, by gc and by status", () => {
  const kernel = halfAdded();
  const lock = kernel.tryLock(pinsOf(bpffs, container).directory) as number;
  assert.equal(collect(kernel, bpffs, { now: kernel.clock + 10 ** 9, graceSeconds: 0 }), {
    settled: [],
    removed: [],
    failed: [],
  });
  assert.is(linked(kernel), 1);
  assert.equal(listAttachments(kernel, bpffs), []);
  kernel.close(lock);
});

test("status says of an interrupted ADD or DEL that it was interrupted, and CHECK finishes the ADD", () => {
  const kernel = halfAdded();
  const reasons = () => listAttachments(kernel, bpffs).flatMap(({ degraded }) => degraded.map(({ reason }) => reason));
  const [half] = listAttachments(kernel, bpffs);
  assert.equal([half?.containerId, half?.netns, half?.generation, half?.ingress.length], ["c", netns, 1, 1]);
  assert.match(reasons().join(), /^an ADD was interrupted, .*: remora gc finishes it, or takes it back$/);
  settle(kernel, pinsOf(bpffs, container));
  check(kernel, bpffs, container, netns);
  assert.equal(reasons(), []);
  kernel.removePin(pinsOf(bpffs, container).record);
  assert.match(reasons().join(), /^a DEL was interrupted, .*: remora gc finishes it$/);
  assert.is(kernel.openFds(), 0);
});

test.run();
