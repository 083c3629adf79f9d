// SPDX-License-Identifier: Apache-2.0
import { resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../../e2e/lib/scratch.ts";
import { findLeftovers, takeInventory } from "./leftovers.ts";

const root = resolve(import.meta.dirname, "../..");

test("a namespace and a mount that are there are found, and nothing of them when they are gone", async () => {
  const before = takeInventory(root);
  let expected: string[];
  {
    using world = scratch();
    const namespace = world.namespace();
    const bpffs = world.bpffs();
    expected = [`network namespace ${namespace.name}`, `mount ${bpffs}`];
    const found = [...takeInventory(root)].filter((item) => !before.has(item));
    for (const item of expected) assert.ok(found.includes(item), `${item} in ${found}`);
  }
  const left = await findLeftovers(root, before);
  for (const item of expected) assert.not.ok(left.includes(item));
});

test("a BPF program that the kernel keeps is found, and gone with the device that kept it", async () => {
  const before = takeInventory(root);
  let programs: string[];
  {
    using world = scratch();
    const object = world.compile({
      name: "kept",
      text: '__attribute__((section("tc"), used)) int kept(void *ctx) { return 0; }\n',
    });
    const namespace = world.namespace();
    namespace.exec("tc", "qdisc", "add", "dev", "lo", "clsact");
    namespace.exec("tc", "filter", "add", "dev", "lo", "ingress", "bpf", "da", "obj", object, "sec", "tc");
    const found = [...takeInventory(root)].filter((item) => !before.has(item));
    programs = found.filter((item) => item.startsWith("bpf program "));
    assert.ok(programs.length > 0);
  }
  const left = await findLeftovers(root, before);
  for (const item of programs) assert.not.ok(left.includes(item));
});

test.run();
