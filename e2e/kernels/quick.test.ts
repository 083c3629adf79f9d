// SPDX-License-Identifier: Apache-2.0
/**
 * The quick part of the kernels' matrix: on each kernel every program of the library loads, alone and all of them in one chain, and a pod
 * lives through ADD, traffic, CHECK, GC and DEL with the hook that the kernel has. `npm run test:kernels` is the whole of it. A kernel that cannot be had is a failure: nothing is passed over.
 */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../lib/scratch.ts";
import { isBad, type Line, printDetails, printTable } from "./cells.ts";
import { checks, rows } from "./matrix.ts";
import { tryOut } from "./tryout.ts";

let table: Line[] = [];

test("the kernels boot, and come to their end", async () => {
  using world = scratch();
  const quick = checks.filter(({ title }) => ["library", "pod"].includes(title));
  assert.is(quick.length, 2);
  // Several processors of several machines would wait for each other, where two real ones carry them all.
  table = await tryOut(world, rows, quick, { processors: 1, progress() {} });
  printDetails(table);
  printTable(table);
});

for (const [place, { name }] of [{ name: "this machine" }, ...rows].entries())
  test(`the library and a pod: ${name}`, () => {
    const line = table[place];
    assert.ok(line && !isBad(line), "see above");
  });

test.run();
