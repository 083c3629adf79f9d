// SPDX-License-Identifier: Apache-2.0
/** Each shape of program that was not written for Remora, by itself and between others: which of them a kernel takes. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Chain, fixture, type Member, u32 } from "../../native/chain.ts";
import { scratch } from "../lib/scratch.ts";

const shapes: [name: string, entry: string, flags?: string[]][] = [
  ["shape-l3af", "l3af_dialect"],
  ["shape-inner", "parse"],
  ["shape-tcx", "written_for_tcx"],
  ["shape-plain", "plain", ["-g0"]],
  ["shape-mixed", "monitor"],
  // Their callbacks are what an old kernel refuses: matrix.ts says so.
  ["shape-functions", "functions"],
  ["shape-lock", "locks"],
];

for (const [name, entry, flags] of shapes)
  test(name, () => {
    using world = scratch();
    const shape: Member = { object: fixture(world, name, flags), entry };
    const plain: Member = { object: fixture(world, "verdict"), entry: "give_verdict", parameters: { id: u32(9) } };
    using alone = new Chain([shape]);
    assert.is(alone.run().verdict, -1);
    using between = new Chain([plain, shape, plain]);
    const { verdict, mark } = between.run();
    assert.is(verdict, -1);
    assert.match(String(mark), /^9\d+9$/, "all three ran, in order");
    for (const position of between.stages.keys()) assert.equal(between.counted(position).endings, {});
  });

test.run();
