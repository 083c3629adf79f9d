// SPDX-License-Identifier: Apache-2.0
/** A chain changes under traffic, and nothing is lost. `npm run soak` does the same for longer. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { faults, report, soak } from "./soak.ts";

for (const hook of ["tcx", "clsact"] as const)
  test(`60 changes of a pod's chain on ${hook} under traffic, every tenth of them broken`, async () => {
    const figures = await soak({ changes: 60, rate: 100_000, hook });
    console.log(report(figures));
    assert.equal(faults(figures), []);
    assert.is(figures.changes, 60);
    assert.ok(figures.refusals >= 6);
  });

test.run();
