// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, type RemoraError } from "../errors.ts";
import type { FakeKernel, ObjectSketch } from "../kernel/fake.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { collect } from "./collect.ts";
import { detach } from "./detach.ts";
import { bpffs, id, input, machine, netns, select } from "./fixture.ts";
import { EntryFailed } from "./generation.ts";
import { claimNodeMap, letGoNodeMap, listNodeMaps } from "./node-maps.ts";
import { nodeMapPins } from "./pins.ts";
import { type ChainPlan, plan } from "./plan.ts";
import { Handles } from "./undo.ts";

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
    if (!operation.startsWith("loadStage") || !other) return;
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

test("an ADD between any two operations of the last user's DEL: the map that it uses is the one that stays", () => {
  const operations = (): number => {
    const kernel = machine();
    attach(kernel, guard(kernel, "a"));
    const before = kernel.operations.length;
    detach(kernel, bpffs, named("a"));
    return kernel.operations.length - before;
  };
  let added = 0;
  for (let nth = 1; nth <= operations(); nth++) {
    const kernel = machine();
    attach(kernel, guard(kernel, "a"));
    const plan = guard(kernel, "b");
    const before = kernel.operations.length;
    let done = false;
    kernel.interfere = (_, number) => {
      if (done || number !== before + nth) return;
      done = true;
      // What the DEL has locked now, it would give back; and the ADD would wait for it.
      const deadline = clock(11_000);
      try {
        attach(kernel, plan);
        added++;
      } catch (error) {
        assert.is((error as RemoraError).code, code.tryAgainLater, String(error));
      } finally {
        deadline();
      }
    };
    detach(kernel, bpffs, named("a"));
    kernel.interfere = undefined;
    assert.ok(done);
    if (kernel.chains("ingress").length > 0) {
      check(kernel, bpffs, named("b"), netns);
      detach(kernel, bpffs, named("b"));
    }
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
  assert.ok(added > 5);
});

/** Whoever waits from now on has waited for so many milliseconds at each look at the clock. Returns what ends it. */
function clock(step: number): () => void {
  const { now } = performance;
  let time = now.call(performance);
  performance.now = () => (time += step);
  return () => {
    performance.now = now;
  };
}

test("what an administrator keeps outlives the last pod, and goes when he lets it go", async () => {
  const kernel = machine();
  const { program } = select(kernel, "guard", {
    maps: [{ name: "deny.list" }],
    change: { mapScopes: { "deny.list": "node" } },
  });
  const wanted = { program: "guard", map: "deny.list" };
  const claim = async () => {
    using handles = new Handles(kernel);
    const { lock } = await claimNodeMap(kernel, bpffs, wanted, async () => program, handles);
    lock[Symbol.dispose]();
  };
  await claim();
  assert.equal(kernel.openFds(), 0);
  const map = kernel.tamper(pinned);
  const listed = (attachments: number, kept = true) => [{ ...wanted, path: pinned, kept, attachments }];
  assert.equal(listNodeMaps(kernel, bpffs), listed(0));
  attach(kernel, guard(kernel, "a"));
  assert.equal(listNodeMaps(kernel, bpffs), listed(1));
  detach(kernel, bpffs, named("a"));
  collect(kernel, bpffs);
  assert.is(kernel.tamper(pinned), map);

  attach(kernel, guard(kernel, "a"));
  assert.is(await letGoNodeMap(kernel, bpffs, wanted), true);
  assert.equal(listNodeMaps(kernel, bpffs), listed(1, false));
  assert.is(await letGoNodeMap(kernel, bpffs, wanted), false);
  await claim();
  assert.is(kernel.tamper(pinned), map);
  detach(kernel, bpffs, named("a"));
  assert.is(await letGoNodeMap(kernel, bpffs, wanted), true);
  assert.equal(kernel.left(), []);
});

test("a claim that fails or is killed at any operation leaves no map that nobody keeps, once gc was there", async () => {
  const arrange = () => {
    const kernel = machine();
    const { program } = select(kernel, "guard", {
      maps: [{ name: "deny.list" }],
      change: { mapScopes: { "deny.list": "node" } },
    });
    const claim = async () => {
      using handles = new Handles(kernel);
      const wanted = { program: "guard", map: "deny.list" };
      const { lock } = await claimNodeMap(kernel, bpffs, wanted, async () => program, handles);
      lock[Symbol.dispose]();
    };
    return { kernel, claim };
  };
  const { kernel: calm, claim: once } = arrange();
  await once();
  for (const how of ["failAt", "crashAt"] as const)
    for (let nth = 1; nth <= calm.operations.length; nth++) {
      const { kernel, claim } = arrange();
      kernel[how](kernel.operations.length + nth);
      await claim().catch(() => {});
      kernel.restart();
      collect(kernel, bpffs);
      const [left] = listNodeMaps(kernel, bpffs);
      if (left) assert.ok(left.kept, `${how} ${nth}`);
      await letGoNodeMap(kernel, bpffs, { program: "guard", map: "deny.list" });
      collect(kernel, bpffs);
      assert.equal(kernel.left(), [], `${how} ${nth}`);
    }
});

test("a map that a parameter makes needless is neither made nor opened", () => {
  const kernel = machine();
  const sketch = {
    maps: [{ name: "deny.list" }],
    parameters: ["deny"],
    change: { mapScopes: { "deny.list": "node" as const }, mapConditions: { "deny.list": "deny" } },
  };
  const selected = (value: number) =>
    select(kernel, "guard", {
      ...sketch,
      select: { parameters: [{ name: "deny", bytes: Buffer.from([value, 0, 0, 0]) }] },
    });
  const without = plan(input(kernel, [select(kernel, "guard", sketch)], { id: named("without") }));
  attach(kernel, without);
  assert.not.ok(kernel.files().includes(pinned));
  attach(kernel, plan(input(kernel, [selected(1)], { id: named("with") })));
  assert.ok(kernel.files().includes(pinned));
  attach(kernel, plan(input(kernel, [selected(0)], { id: named("off") })));
  assert.equal(
    kernel.chains("ingress").map(([stage]) => [stage?.without, stage?.reuse.length]),
    [
      [["deny.list"], 0],
      [[], 0],
      [["deny.list"], 0],
    ],
  );
  for (const name of ["without", "with", "off"]) check(kernel, bpffs, named(name), netns);
  for (const name of ["with", "without", "off"]) {
    detach(kernel, bpffs, named(name));
    assert.not.ok(kernel.files().includes(pinned));
  }
  assert.equal(kernel.left(), []);
});

test("a program whose map has changed its shape is refused while the old one is in use", () => {
  const kernel = machine();
  attach(kernel, guard(kernel, "a"));
  const wider = guard(kernel, "b", [{ name: "deny.list", valueSize: 16 }]);
  assert.throws(
    () => attach(kernel, wider),
    (error: unknown) =>
      error instanceof EntryFailed &&
      error.cause.code === "EREFUSED" &&
      error.cause.message.endsWith("remora maps --node guard deny.list --release"),
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
