// SPDX-License-Identifier: Apache-2.0
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { BuildError, holdsPath, runStep, type Step } from "./step.ts";

/** A repository with one step, which copies `in/a` to `out`, and a count of its runs. */
function repository() {
  const root = mkdtempSync(join(tmpdir(), "remora-step-"));
  mkdirSync(join(root, "in/deep"), { recursive: true });
  writeFileSync(join(root, "in/a"), "one");
  const state = { runs: 0 };
  const step: Step = {
    name: "copy",
    inputs: ["in"],
    outputs: ["out"],
    run() {
      state.runs++;
      writeFileSync(join(root, "out"), readFileSync(join(root, "in/a")));
    },
  };
  return { root, step, state, [Symbol.dispose]: () => rmSync(root, { recursive: true }) };
}

test("a step runs once, and again when an input or an output has changed", () => {
  using it = repository();
  const run = () => runStep(it.root, it.step);
  assert.equal([run(), run()], [true, false]);

  writeFileSync(join(it.root, "in/a"), "one"); // a new time is no change
  assert.is(run(), false);
  writeFileSync(join(it.root, "in/a"), "two");
  assert.equal([run(), run()], [true, false]);
  assert.is(readFileSync(join(it.root, "out"), "utf8"), "two");

  writeFileSync(join(it.root, "in/deep/new"), "");
  assert.equal([run(), run()], [true, false]);
  rmSync(join(it.root, "in/deep/new"));
  assert.equal([run(), run()], [true, false]);
  rmSync(join(it.root, "out"));
  assert.equal([run(), run()], [true, false]);
});

test("a step that failed runs again, and one that writes nothing is an error", () => {
  using it = repository();
  const { run } = it.step;
  it.step.run = () => {
    throw new BuildError("no");
  };
  assert.throws(() => runStep(it.root, it.step), /^no$/);
  it.step.run = () => {};
  assert.throws(() => runStep(it.root, it.step), /copy did not write out/);
  assert.not.ok(existsSync(join(it.root, "out")));
  it.step.run = run;
  assert.is(runStep(it.root, it.step), true);
});

test("an input that is not there is an error that names it", () => {
  using it = repository();
  rmSync(join(it.root, "in"), { recursive: true });
  assert.throws(() => runStep(it.root, it.step), /copy needs in, which is not there/);
});

test("a path of the build machine is found where it begins, and not inside another path", () => {
  assert.ok(holdsPath(Buffer.from("\0/src/plugin/main.ts\0"), "/src"));
  assert.ok(holdsPath(Buffer.from("/src/a"), "/src"));
  assert.ok(holdsPath(Buffer.from("/v8/src/a /src/a"), "/src"));
  assert.not.ok(holdsPath(Buffer.from("../../src/a, /v8/src/b and /srcs"), "/src"));
});

test.run();
