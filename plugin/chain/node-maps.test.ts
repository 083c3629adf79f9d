// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { FakeKernel, ObjectSketch } from "../kernel/fake.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { collect } from "./collect.ts";
import { detach } from "./detach.ts";
import { bpffs, id, input, machine, netns, select } from "./fixture.ts";
import { EntryFailed } from "./generation.ts";
import { nodeMapPins } from "./pins.ts";
import { type ChainPlan, plan } from "./plan.ts";

const pinned = nodeMapPins(bpffs, "guard").map("deny.list");
const named = (containerId: string) => ({ ...id, containerId });

function guard(
  kernel: FakeKernel,
  containerId: string,
  map: ObjectSketch["maps"] = [{ name: "deny.list" }],
): ChainPlan {
  const program = select(kernel, "guard", { maps: map, change: { mapScopes: { "deny.list": "node" } } });
  return plan(input(kernel, [program], { id: named(containerId) }));
}

test("pods share one map, which goes with the last of them", () => {
  const kernel = machine();
  attach(kernel, guard(kernel, "a"));
  const map = kernel.tamper(pinned);
  attach(kernel, guard(kernel, "b"));
  assert.is(kernel.tamper(pinned), map);
  for (const direction of ["ingress", "egress"] as const)
    assert.equal(
      kernel.chains(direction).map(([stage]) => stage?.reuse.map(({ name }) => name)),
      // The very first to load makes it: the ingress chain of a.
      direction === "ingress" ? [[], ["deny.list"]] : [["deny.list"], ["deny.list"]],
    );
  check(kernel, bpffs, named("a"), netns);
  detach(kernel, bpffs, named("a"));
  assert.is(kernel.tamper(pinned), map);
  check(kernel, bpffs, named("b"), netns);
  detach(kernel, bpffs, named("b"));
  assert.equal(kernel.left(), []);
});

test("CHECK misses it", () => {
  const kernel = machine();
  attach(kernel, guard(kernel, "a"));
  kernel.removePin(pinned);
  assert.throws(() => check(kernel, bpffs, named("a"), netns), /map deny\.list of ingress position 0 is missing/);
});

test("of two ADDs that make it at the same time, both use the first one's", () => {
  const kernel = machine();
  let other = true;
  kernel.interfere = (operation) => {
    if (operation !== `pin ${pinned}` || !other) return;
    other = false;
    attach(kernel, guard(kernel, "b"));
  };
  attach(kernel, guard(kernel, "a"));
  kernel.interfere = undefined;
  for (const name of ["a", "b"]) check(kernel, bpffs, named(name), netns);
  for (const name of ["a", "b"]) detach(kernel, bpffs, named(name));
  assert.equal(kernel.left(), []);
});

test("an ADD that is still at work keeps it from being removed, and the next DEL looks again", () => {
  const kernel = machine();
  attach(kernel, guard(kernel, "a"));
  let once = true;
  kernel.interfere = (operation) => {
    if (!operation.startsWith("loadStage") || !once) return;
    once = false;
    detach(kernel, bpffs, named("a"));
  };
  attach(kernel, guard(kernel, "b"));
  kernel.interfere = undefined;
  check(kernel, bpffs, named("b"), netns);
  detach(kernel, bpffs, named("b"));
  assert.equal(kernel.left(), []);
});

test("a program whose map has changed its shape is refused while the old one is in use", () => {
  const kernel = machine();
  attach(kernel, guard(kernel, "a"));
  const wider = guard(kernel, "b", [{ name: "deny.list", valueSize: 16 }]);
  assert.throws(
    () => attach(kernel, wider),
    (error: unknown) => error instanceof EntryFailed && error.cause.code === "EREFUSED",
  );
  check(kernel, bpffs, named("a"), netns);
  detach(kernel, bpffs, named("a"));
  assert.equal(kernel.left(), []);
});

test("what a killed ADD left of it, a collection removes, and spares the neighbours' folders", () => {
  const kernel = machine();
  kernel.interfere = (operation) => {
    if (operation === "createMap remora_egress") kernel.crashAt(0);
  };
  try {
    attach(kernel, guard(kernel, "a"));
  } catch {}
  kernel.interfere = undefined;
  kernel.restart();
  assert.ok(kernel.files().includes(pinned));
  // A network called node lives in the same folder.
  attach(kernel, { ...plan(input(kernel, [select(kernel, "p")])), id: { ...id, network: "node" } });
  assert.equal(collect(kernel, bpffs, { now: kernel.clock }).removed, []);
  assert.ok(kernel.files().includes(pinned));
  const { removed } = collect(kernel, bpffs, { now: kernel.clock + 10 ** 9 });
  assert.is(removed[0]?.containerId, "a");
  assert.not(kernel.files().includes(pinned));
  check(kernel, bpffs, { ...id, network: "node" }, netns);
  detach(kernel, bpffs, { ...id, network: "node" });
  assert.equal(kernel.left(), []);
});

test.run();
