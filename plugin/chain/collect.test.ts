// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { FakeKernel } from "../kernel/fake.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { collect, collectNetwork } from "./collect.ts";
import { bpffs, id, input, machine, netns, select } from "./fixture.ts";
import { pinsOf } from "./pins.ts";
import { type ChainPlan, plan } from "./plan.ts";

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

test("what a killed ADD left is taken once it is old enough, at whichever operation it died", () => {
  const count = (() => {
    const kernel = machine();
    attach(kernel, planFor(kernel, "c"));
    return kernel.operations.length;
  })();
  for (let nth = 1; nth <= count; nth++) {
    const kernel = machine();
    kernel.crashAt(nth);
    try {
      attach(kernel, planFor(kernel, "c"));
    } catch {}
    const operation = kernel.operations.at(-1) ?? "";
    kernel.restart();
    const linked = kernel.chains("ingress").length + kernel.chains("egress").length > 0;
    const young = collect(kernel, bpffs, { now: kernel.clock, graceSeconds: 60 });
    assert.equal(young.removed, [], operation);
    const old = collect(kernel, bpffs, { now: kernel.clock + 60_000, graceSeconds: 60 });
    // With a link in place packets run through it: that goes with the namespace, or the container's DEL.
    if (linked) assert.equal(old.removed, [], operation);
    else
      assert.equal(
        kernel.files().filter((path) => path.includes(":")),
        [],
        operation,
      );
  }
});

test.run();
