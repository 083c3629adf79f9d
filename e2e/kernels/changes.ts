// SPDX-License-Identifier: Apache-2.0
/** Chains change under traffic, on every hook that this kernel has, and nothing is lost: e2e/change at an emulator's pace. */
import { release } from "node:os";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { hasTcx } from "../../plugin/chain/explain.ts";
import { faults, report, soak } from "../change/soak.ts";

for (const hook of hasTcx(release()) ? (["tcx", "clsact"] as const) : (["clsact"] as const))
  test(`changes of a pod's chain on ${hook}, every tenth of them broken`, async () => {
    const figures = await soak({ changes: 10, rate: 400, seconds: 16, hook });
    console.log(report(figures));
    assert.equal(faults(figures), []);
    assert.is(figures.changes, 10);
    assert.ok(figures.refusals >= 1);
  });

test.run();
