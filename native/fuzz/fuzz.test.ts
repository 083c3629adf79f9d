// SPDX-License-Identifier: Apache-2.0
/** A short run of the fuzzer; `npm run fuzz` is the long one. */
import { resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { fuzzerStep, runFuzzer } from "../../scripts/make/fuzzer.ts";
import { runStep } from "../../scripts/make/step.ts";

const root = resolve(import.meta.dirname, "../..");

test("the object loader survives 15 seconds of damaged objects", () => {
  runStep(root, fuzzerStep(root));
  const { inputs, coverage, features, findings, report } = runFuzzer(root, 15);
  assert.equal(findings, [], report);
  // Far fewer would mean that it got no further than the first checks.
  assert.ok(inputs > 500, `${inputs} inputs`);
  assert.ok(coverage > 3000, `coverage ${coverage}`);
  console.log(`${inputs} inputs, coverage ${coverage} edges, ${features} features`);
});

test.run();
